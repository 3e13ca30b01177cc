"""What `make demo` shows: each kind of edit, in figures against the true answer and in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.stats import spearmanr

from ...demo.recognise import LIGHT, Reading, matches, recognise
from ...demo.scenes import COLOURS, PITCH, SIZE, Item, pattern_coverage
from ..metrics import psnr
from ..sheet import grid
from .pairs import ADDED, FADED, PAIRS, WINDOWS, Inputs, Pair
from .studio import Link, Photographer, Request

MARGIN = 4
"""Pixels around an object that are not yet background: edges are soft."""

FADER = (-2.0, -1.0, -0.5, 0.0, 1.0)
"""Factors of the reweighting sheet, up to leaving the word alone: there the pattern is whole."""

FITTED: Inputs = {"threshold_by": "Otsu", "smoothing": 1.0, "sharpen": 2}
"""Of a local blend whose mask follows the object closely, see `blends`."""


@dataclass
class Exhibit:
    """Figures and a sheet of pictures."""

    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    sheet: Image.Image | None = None


def background_psnr(a: np.ndarray, b: np.ndarray, readings: Sequence[Reading]) -> float:
    """Measure the PSNR of two uint8 pictures outside every object of both readings, in dB."""
    outside = np.ones(a.shape[:2], dtype=bool)
    for reading in readings:
        for item in reading.items:
            outside &= ~binary_dilation(item.mask, iterations=MARGIN)
    return psnr(a[outside], b[outside])


@dataclass(frozen=True)
class Score:
    """What was measured of one edited picture."""

    success: bool
    background_psnr: float

    @classmethod
    def of(
        cls, source: np.ndarray, picture: np.ndarray, pair: Pair, *, alone: bool = False
    ) -> Score:
        """Measure a picture; with `alone` nothing but what is wanted may be there."""
        before, after = recognise(source), recognise(picture)
        right = all(all(one.values()) for one in matches(after, pair.wanted))
        return cls(
            right and not (alone and len(after.items) != len(pair.wanted)),
            background_psnr(source, picture, (before, after)),
        )


@dataclass(frozen=True)
class Fit:
    """How a local blend's mask fits what may change: the objects of source and edited picture."""

    coverage: float
    """The mask's share of the picture."""
    objects: float
    """The objects' share, with their margin."""
    iou: float
    """Intersection over union of the mask and the objects with their margin."""

    @classmethod
    def of(cls, source: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> Fit:
        """Measure a mask, uint8[height width 3] in latent cells; half an object's cell is its."""
        both = np.zeros(source.shape[:2], dtype=bool)
        for item in (*recognise(source).items, *recognise(picture).items):
            both |= binary_dilation(item.mask, iterations=MARGIN)
        high, wide = mask.shape[:2]
        cells = both.reshape(high, source.shape[0] // high, wide, -1).mean((1, 3)) >= 0.5
        own = mask[..., 0] > 127
        union = (own | cells).sum()
        return cls(own.mean(), cells.mean(), (own & cells).sum() / union if union else 1.0)

    @staticmethod
    def summary(fits: Sequence[Fit]) -> dict[str, float]:
        """Average each."""
        names = ("coverage", "objects", "iou")
        return {name: float(np.mean([getattr(fit, name) for fit in fits])) for name in names}


def summary(scores: Sequence[Score]) -> dict[str, float]:
    return {
        "background_psnr": float(np.mean([score.background_psnr for score in scores])),
        "edit_success": float(np.mean([score.success for score in scores])),
    }


def swap(pair: Pair, **inputs: Any) -> Link:
    return "P2P_WordSwap", {"words": pair.words, "replacement": pair.replacement, **inputs}


def word_swaps(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Swap words beside re-prompting, with and without local blend; yields after every prompt."""
    exhibit = Exhibit({"pairs": seeds * sum(len(pairs) for pairs in PAIRS.values())})
    blended: list[Score] = []
    fits: list[Fit] = []
    images: list[np.ndarray] = []
    captions: list[str] = []
    for kind, pairs in PAIRS.items():
        scores: dict[str, list[Score]] = {"reprompt": [], "p2p": []}
        for n, pair in enumerate(pairs):
            plain = swap(pair, **WINDOWS[studio.model][kind])
            chains = [[plain], [plain, ("P2P_LocalBlend", {})]]
            wanted = Request(pair.prompt, chains, seeds, seed + n, pair.edited, masks=True)
            shot = studio.shoot(wanted)
            edited, local = shot["p2p"][:seeds], shot["p2p"][seeds:]
            for source, again, picture, kept, mask in zip(
                shot["source"], shot["reprompt"], edited, local, shot["masks"][seeds:], strict=True
            ):
                scores["reprompt"].append(Score.of(source, again, pair))
                scores["p2p"].append(Score.of(source, picture, pair))
                blended.append(Score.of(source, kept, pair))
                fits.append(Fit.of(source, kept, mask))
            if n < 4:
                images += [shot["source"][0], shot["reprompt"][0], edited[0], local[0]]
                captions += [
                    pair.prompt,
                    pair.edited,
                    f"{pair.words} to {pair.replacement}",
                    "and nothing outside the object",
                ]
            yield exhibit
        exhibit.figures[kind] = {name: summary(some) for name, some in scores.items()}
    worst = min(score.background_psnr for score in blended)
    exhibit.figures["local_blend"] = {
        **summary(blended),
        "worst_psnr": worst,
        **Fit.summary(fits),
    }
    heads = ("source", "re-prompted, same seed", "Prompt-to-Prompt", "with local blend")
    exhibit.sheet = grid(images, captions, columns=4, heads=heads, scale=2)


def refinements(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Add a pattern word to a prompt, kept to its object; yields after every prompt."""
    exhibit = Exhibit()
    scores: dict[str, list[Score]] = {"reprompt": [], "p2p": []}
    shifts: list[float] = []
    images: list[np.ndarray] = []
    captions: list[str] = []
    for n, pair in enumerate(ADDED):
        refine = ("P2P_Refine", {"edited_prompt": pair.edited, **WINDOWS[studio.model]["refine"]})
        noun = pair.words.split()[-1]
        blend = ("P2P_LocalBlend", {"source_words": noun, "edited_words": noun})
        shot = studio.shoot(Request(pair.prompt, [[refine, blend]], seeds, seed + n, pair.edited))
        for source, again, picture in zip(
            shot["source"], shot["reprompt"], shot["p2p"], strict=True
        ):
            scores["reprompt"].append(Score.of(source, again, pair))
            scores["p2p"].append(Score.of(source, picture, pair))
            before, after = recognise(source), recognise(picture)
            if before.items:
                here = before.items[0]
                places = [np.hypot(i.x - here.x, i.y - here.y) for i in after.items]
                shifts.append(float(min(places, default=np.hypot(*source.shape[:2]))))
        if n < 4:
            images += [shot["source"][0], shot["reprompt"][0], shot["p2p"][0]]
            captions += [pair.prompt, pair.edited, pair.edited]
        yield exhibit
    figures = {name: summary(some) for name, some in scores.items()}
    exhibit.figures["refine"] = {
        "edit_success": figures["p2p"]["edit_success"],
        "centroid_shift": float(np.mean(shifts)),
        **figures,
    }
    heads = ("source", "re-prompted, same seed", "Prompt-to-Prompt, local blend")
    exhibit.sheet = grid(images, captions, columns=3, heads=heads, scale=2)


def fader(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Turn a pattern word up and down; yields after every prompt."""
    exhibit = Exhibit()
    correlations: list[float] = []
    images: list[np.ndarray] = []
    captions: list[str] = []
    windows = WINDOWS[studio.model]["reweight"]
    for n, (text, word) in enumerate(FADED):
        chains = [
            [("P2P_Reweight", {"words": f"{word}: {factor:g}", **windows})] for factor in FADER
        ]
        shot = studio.shoot(Request(text, chains, seeds, seed + n))
        for i, source in enumerate(shot["source"]):
            pattern = [pattern_strength(source, picture, word) for picture in shot["p2p"][i::seeds]]
            correlations.append(float(np.nan_to_num(spearmanr(FADER, pattern).statistic)))
        if n < 4:
            images += [shot["source"][0], *shot["p2p"][::seeds]]
            captions += [text, *(f"{word}: {factor:g}" for factor in FADER)]
        yield exhibit
    exhibit.figures["reweight"] = {"rank_correlation": float(np.mean(correlations))}
    exhibit.sheet = grid(images, captions, columns=1 + len(FADER), heads=("source",), scale=2)


def pattern_strength(source: np.ndarray, picture: np.ndarray, pattern: str) -> float:
    """Measure how strongly the source's objects show a pattern: 1 as rendered, 0 not at all.

    The slope of the picture's lightness, from the object's colour, 0, to the pattern's light one,
    1, over the pattern as rendered, at the shift that fits best; mean over objects.
    """
    strengths: list[float] = []
    for item in recognise(source).items:
        inside = binary_erosion(item.mask, iterations=2)
        own, light = np.array(COLOURS[item.colour], float), np.array(LIGHT)
        along = (picture.astype(float) - own) @ (light - own) / np.square(light - own).sum()
        lightness = along[inside].clip(0, 1)
        drawn = pattern_coverage(Item(item.shape, item.colour, pattern, item.x, item.y, SIZE))
        if pattern == "dotted":  # what rows of dots share with stripes is no sign of dots
            drawn = drawn - drawn.mean(axis=1, keepdims=True)
        slopes: list[float] = []
        for shift in product(range(-PITCH // 2, PITCH // 2 + 1), repeat=2):
            template = np.roll(drawn, shift, axis=(0, 1))[inside]
            spread = template - template.mean()
            slopes.append(float(spread @ lightness / max(np.square(spread).sum(), 1e-6)))
        strengths.append(max(slopes))
    return float(np.mean(strengths)) if strengths else 0.0


def one_word(studio: Photographer, seed: int) -> Iterator[Exhibit]:
    """Inject the source's attention for one word only, for all, for none (paper figure 5)."""
    images: list[np.ndarray] = []
    captions: list[str] = []
    exhibit = Exhibit()
    for n, pair in enumerate(PAIRS["colour_swap"][:3]):
        noun = pair.prompt.split()[2]
        free = {"cross_replace_end": 0.0, "self_replace_end": 0.0}
        chains = [
            [swap(pair, **free)],
            [swap(pair, **free, word_windows=f"{noun}: 0-1")],
            [swap(pair, cross_replace_end=1.0, self_replace_end=0.0)],
        ]
        shot = studio.shoot(Request(pair.prompt, chains, 1, seed + n))
        images += [shot["source"][0], *shot["p2p"]]
        captions += [pair.prompt, "nothing injected", f"only {noun!r} injected", "every word"]
        yield exhibit
    exhibit.sheet = grid(images, captions, columns=4, heads=("source",), scale=2)


def word_maps(studio: Photographer, seed: int) -> Iterator[Exhibit]:
    """Show where source and edited picture look at each word (paper figures 3 and 4)."""
    exhibit = Exhibit()
    images: list[np.ndarray] = []
    for n, pair in enumerate(PAIRS["colour_swap"][:3]):
        chain = [swap(pair, **WINDOWS[studio.model]["colour_swap"])]
        shot = studio.shoot(Request(pair.prompt, [chain], 1, seed + n, maps=""))
        words = len(pair.prompt.split())
        for picture, maps in (("source", shot["maps"][:words]), ("p2p", shot["maps"][words:])):
            row = [shot[picture][0], *maps][:7]
            images += row + [np.full_like(row[0], 255)] * (7 - len(row))
        yield exhibit
    exhibit.sheet = grid(images, [""] * len(images), columns=7, heads=("picture",), scale=2)
