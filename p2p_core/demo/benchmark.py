"""`make fidelity`: inversion methods on pictures that the model never made, against true answers.

Scenes are rendered, captioned, inverted and edited by words, in the kinds of PIE-Bench: another
object, colour, pattern or size, an attribute added or deleted, another background. The same scene
with that one thing changed is the true answer; what it leaves alone is the background to be kept.
Writes output/fidelity/report.json and a sheet of pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from ..hosts.in_process import enter_host
from ..hosts.locate import HostNotFound, find_hosts
from .meter import peak_memory
from .metrics import psnr
from .recognise import recognise
from .scenes import (
    BACKGROUNDS,
    BIG_RADIUS,
    COLOURS,
    GROUND_PHRASES,
    SHAPES,
    SIZE,
    SMALL_RADIUS,
    Item,
    Scene,
    is_visible,
    render,
    sample_scene,
    with_article,
)
from .sheet import grid

KINDS = ("object", "colour", "pattern", "size", "add", "delete", "background")
MARGIN = 4
"""Pixels around what changes that are not yet background."""


@dataclass(frozen=True)
class Case:
    """A scene and the same scene edited, with the prompts of both."""

    kind: str
    scene: Scene
    edited: Scene
    prompt: str
    edited_prompt: str

    @property
    def kept(self) -> np.ndarray:
        """Where the true answer is as the source: bool[height width]."""
        changed = np.abs(render(self.scene).astype(int) - render(self.edited)).max(-1) > 8
        return ~binary_dilation(changed, iterations=MARGIN)

    @property
    def words(self) -> tuple[str, str]:
        """What changes, in the prompt and in the edited one."""
        named = [
            GROUND_PHRASES[scene.background][0].split()[-1]
            if self.kind == "background"
            else scene.items[0].shape
            for scene in (self.scene, self.edited)
        ]
        return named[0], named[1]

    def succeeds(self, picture: np.ndarray) -> bool:
        """Whether what was to change has changed, in the largest object or the ground."""
        reading, wanted = recognise(picture), self.edited.items[0]
        if self.kind == "background":
            return reading.background == self.edited.background
        if not reading.items:
            return False
        found, before = reading.items[0], self.scene.items[0]
        if self.kind == "size":
            return (found.radius > before.radius) == (wanted.radius > before.radius) and (
                abs(np.log(found.radius / before.radius)) > np.log(1.2)
            )
        attribute = {"object": "shape", "colour": "colour"}.get(self.kind, "pattern")
        return getattr(found, attribute) == getattr(wanted, attribute)


def cases(count: int, seed: int) -> Iterator[Case]:
    """As many of each kind, as far as `count` goes."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        scene = sample_scene(rng)
        item = scene.items[0]
        case = _case(KINDS[made % len(KINDS)], replace(scene, items=(item,)), item, rng)
        if case is not None:
            made += 1
            yield case


def _case(kind: str, scene: Scene, item: Item, rng: random.Random) -> Case | None:
    """A case of this kind, or None where the scene has none."""
    ground = scene.background
    if kind == "object":
        changed = replace(item, shape=rng.choice([s for s in SHAPES if s != item.shape]))
    elif kind == "colour":
        others = [c for c in COLOURS if c != item.colour and is_visible(c, ground)]
        changed = replace(item, colour=rng.choice(others))
    elif kind == "size":
        if item.size is None:
            return None
        radius = sum(SMALL_RADIUS if item.size == "big" else BIG_RADIUS) / 2
        changed = replace(item, radius=radius)
        if not all(radius < at < SIZE - radius for at in (item.x, item.y)):
            return None
    elif kind == "background":
        others = [b for b in BACKGROUNDS if b != ground and is_visible(item.colour, b)]
        ground, changed = rng.choice(others), item
    else:
        patterns = {"pattern": ("striped", "dotted"), "add": ("plain",), "delete": ("striped",)}
        before = rng.choice(patterns[kind])
        after = (
            {"pattern": {"striped": "dotted", "dotted": "striped"}[before]}
            if (kind == "pattern")
            else {"pattern": rng.choice(("striped", "dotted")) if kind == "add" else "plain"}
        )
        item = replace(item, pattern=before)
        scene = replace(scene, items=(item,))
        changed = replace(item, **after)
    edited = replace(scene, items=(changed,), background=ground)
    sized = kind == "size"
    return Case(kind, scene, edited, _caption(scene, sized), _caption(edited, sized))


def _caption(scene: Scene, sized: bool) -> str:
    (item,) = scene.items
    size = item.size if sized else None
    pattern = None if item.pattern == "plain" else item.pattern
    words = [size, pattern, item.colour, item.shape, GROUND_PHRASES[scene.background][0]]
    return with_article(" ".join(word for word in words if word))


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of uint8 pictures, mean over a region."""
    x, y = (torch.from_numpy(image / 255).permute(2, 0, 1)[None] for image in (a, b))
    _, index = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    return float(index[0].permute(1, 2, 0)[torch.from_numpy(where)].mean())


def structure_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How differently two pictures' parts resemble each other: 0 for the same layout.

    Mean squared difference of the cosine similarities between 8×8 patches, means taken off: the
    published measure's self-similarity, on pixels for want of a trained network.
    """

    def alike(image: np.ndarray) -> np.ndarray:
        side = SIZE // 8
        patches = image.astype(float).reshape(side, 8, side, 8, 3).swapaxes(1, 2)
        patches = patches.reshape(side * side, -1)
        patches = patches - patches.mean(0)
        patches /= np.linalg.norm(patches, axis=1, keepdims=True) + 1e-6
        return patches @ patches.T

    return float(np.square(alike(a) - alike(b)).mean())


@dataclass
class Tally:
    """Figures of one method, a number for each case."""

    numbers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, **figures: float) -> None:
        for name, figure in figures.items():
            self.numbers.setdefault(name, []).append(figure)

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(some)) for name, some in self.numbers.items()}


def measure(count: int, steps: int, cfg: float, seed: int, out: Path) -> dict[str, Any]:
    """The report, and a sheet of the first case of each kind."""
    from ..hosts.comfyui.fidelity import METHODS, REFERENCE_CASES, Lab

    lab = Lab(steps, cfg)
    tallies = {name: Tally() for name in METHODS}
    trips, memory = list[float](), dict[str, float]()
    images: list[np.ndarray] = []
    captions: list[str] = []
    for n, case in enumerate(tqdm(list(cases(count, seed)), desc="cases")):
        picture, truth, kept = render(case.scene), render(case.edited), case.kept
        trip = lab.show(lab.encode(picture))
        trips.append(psnr(picture, trip))
        shown = [picture, truth]
        for name, method in METHODS.items():
            if method.reference and n >= REFERENCE_CASES:
                continue
            start = time.perf_counter()
            made = method.run(lab, picture, case)
            seconds = time.perf_counter() - start
            if name not in memory:
                run = partial(method.run, lab, picture, case)
                memory[name] = peak_memory(run) / 2**20
            tally = tallies[name]
            if made.reconstruction is not None:
                tally.add(
                    reconstruction_psnr=psnr(picture, made.reconstruction),
                    below_round_trip=trips[-1] - psnr(picture, made.reconstruction),
                )
            if kept.any():
                error = np.square(picture[kept].astype(float) / 255 - made.edited[kept] / 255)
                tally.add(
                    background_psnr=psnr(picture[kept], made.edited[kept]),
                    background_ssim=ssim(picture, made.edited, kept),
                    background_mse=float(error.mean()),
                    background_perceptual=lab.perceptual_distance(picture, made.edited, kept),
                )
            tally.add(
                structure_distance=structure_distance(picture, made.edited),
                edit_success=float(case.succeeds(made.edited)),
                true_edit_psnr=psnr(truth, made.edited),
                network_evaluations=made.evaluations,
                optimisation_evaluations=made.optimisation_evaluations,
                seconds=seconds,
            )
            if not method.reference:
                shown.append(made.edited)
        if n < len(KINDS):
            images += shown
            captions += [case.prompt, case.edited_prompt, *[""] * (len(shown) - 2)]
    heads = ("given", "true answer", *(name for name, m in METHODS.items() if not m.reference))
    sheet = grid(images, captions, columns=len(heads), heads=heads, scale=1)
    sheet.save(out / "sheet.png")
    return {
        "cases": count,
        "steps": steps,
        "cfg": cfg,
        "vae_round_trip_psnr": float(np.mean(trips)),
        "null_text_against_reference": _against_reference(tallies, steps),
        "methods": {
            name: {**tally.means, "peak_memory_mib": memory[name]}
            for name, tally in tallies.items()
        },
    }


def _against_reference(tallies: dict[str, Tally], steps: int) -> dict[str, float]:
    """Our schedule of null-text optimisation beside the authors', on the cases that both had.

    The evaluations are compared with the most that theirs allows, and with what was left of them
    when it stopped early.
    """
    from ..inversion.null_text import REFERENCE

    reference, ours = (tallies[name].numbers for name in ("null_text_reference", "null_text"))
    both = len(reference["seconds"])
    means = {
        key: (float(np.mean(ours[key][:both])), float(np.mean(reference[key])))
        for key in ("optimisation_evaluations", "reconstruction_psnr", "seconds")
    }
    return {
        "cases": both,
        "evaluations_ratio": means["optimisation_evaluations"][0] / (REFERENCE.inner_steps * steps),
        "evaluations_ratio_after_early_stops": means["optimisation_evaluations"][0]
        / means["optimisation_evaluations"][1],
        "seconds_ratio": means["seconds"][0] / means["seconds"][1],
        "psnr_difference": means["reconstruction_psnr"][0] - means["reconstruction_psnr"][1],
    }


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("output/fidelity"))
    parser.add_argument("--cases", type=int, default=105)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=2022)
    options = parser.parse_args()
    try:
        host = find_hosts(clone=True)[0]
    except HostNotFound as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="p2p-fidelity-") as base:
        enter_host(host, Path(base))
        report = {
            "host": host.version,
            **measure(options.cases, options.steps, options.cfg, options.seed, options.out),
        }
    text = json.dumps(report, indent=2) + "\n"
    (options.out / "report.json").write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
