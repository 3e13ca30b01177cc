"""How well a local blend's mask fits the object, and what it keeps of the background: a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from .exhibits import FITTED, Exhibit, Fit, Score, summary, swap
from .pairs import PAIRS, WINDOWS, Inputs, Pair
from .studio import Link, Photographer, Request

WITHOUT = "no blend"

BLENDS: Mapping[str, Inputs] = {
    "the nouns, too": {},
    "Otsu": FITTED,
    "Otsu, values": {**FITTED, "keep_background": "values"},
    "Otsu, latents and values": {**FITTED, "keep_background": "both"},
}
"""Inputs of masks by the words that change and the nouns that they stand by."""


def kinds(pair: Pair) -> Mapping[str, list[Link]]:
    """List the blends of a pair's edit: none, the paper's of the changed words, and `BLENDS`."""
    only = {"source_words": pair.words, "edited_words": pair.replacement}
    given = {"changed words": only, **BLENDS}
    blends = {name: [("P2P_LocalBlend", inputs)] for name, inputs in given.items()}
    return {WITHOUT: [], **blends}


def blends(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Swap words with every kind of mask and without any; yields after every prompt."""
    exhibit = Exhibit()
    table: dict[str, dict[str, Any]] = {}
    for kind, pairs in PAIRS.items():
        scores: dict[str, list[Score]] = {}
        fits: dict[str, list[Fit]] = {}
        for n, pair in enumerate(pairs):
            plain = swap(pair, **WINDOWS[studio.model][kind])
            tried = kinds(pair)
            chains = [[plain, *links] for links in tried.values()]
            shot = studio.shoot(Request(pair.prompt, chains, seeds, seed + n, masks=True))
            for (name, source), picture, mask in zip(
                product(tried, shot["source"]), shot["p2p"], shot["masks"], strict=True
            ):
                scores.setdefault(name, []).append(Score.of(source, picture, pair))
                fits.setdefault(name, []).append(Fit.of(source, picture, mask))
            yield exhibit
        for name, some in scores.items():
            worst = min(score.background_psnr for score in some)
            row = {**summary(some), "worst_psnr": worst}
            fit = {} if name == WITHOUT else Fit.summary(fits[name])
            table.setdefault(name, {})[kind] = {**row, **fit}
    exhibit.figures["blends"] = table
