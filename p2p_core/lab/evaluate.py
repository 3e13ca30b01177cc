"""How good the demo model is.

`make evaluate` writes output/evaluate/report.json and a sample sheet.
Captions that training never saw are sampled with the host's own KSampler, and what is in the
pictures is read off by matching them against the renderer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..attention_maps import enlarged, normalised
from ..demo.recognise import matches, recognise
from ..demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    GROUND_PHRASES,
    SHAPES,
    Scene,
    is_held_out,
    is_visible,
    render,
    sample_scene,
    with_article,
)
from ..hosts.launch.in_process import enter_host
from ..hosts.launch.locate import HostNotFound, find_hosts
from .metrics import psnr
from .sheet import grid

STEPS = 30
CFG = 3.0
BATCH = 32
MAP_THRESHOLD = 0.3
"""A word's map, divided by its maximum, is the word's region above this, as in local blend."""


@dataclass(frozen=True)
class Case:
    """A caption and what a picture of it must show.

    The last object is the one whose word map is measured.
    """

    caption: str
    background: str
    items: tuple[Mapping[str, str], ...]


def cases(count: int, seed: int) -> Iterator[Case]:
    """Captions that name the background and each object's colour and shape.

    Their combinations are those kept from training.
    """
    rng = random.Random(f"evaluation {seed}")
    unseen = {
        background: [
            (s, c)
            for s in SHAPES
            for c in COLOURS
            if is_held_out(s, c, background) and is_visible(c, background)
        ]
        for background in BACKGROUNDS
    }
    for n in range(count):
        background = rng.choice(tuple(BACKGROUNDS))
        chosen = rng.sample(unseen[background], 2 if n % 4 == 3 else 1)
        items = tuple({"shape": shape, "colour": colour} for shape, colour in chosen)
        phrases = [with_article(f"{colour} {shape}") for shape, colour in chosen]
        joined = rng.choice((" and ", " next to ", " left of ", " above ")).join(phrases)
        yield Case(f"{joined} {rng.choice(GROUND_PHRASES[background])}", background, items)


def word_map_iou(word_map: torch.Tensor, mask: np.ndarray) -> float:
    """Of a word's thresholded map with an object's mask, at the picture's resolution.

    The map is float[h w], the mask bool[H W].
    """
    region = enlarged(normalised(word_map[None]), *mask.shape)[0].numpy() > MAP_THRESHOLD
    return float((region & mask).sum() / max((region | mask).sum(), 1))


def evaluate(
    pipeline: Any, count: int, seed: int, cfg: float
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The report and the first pictures."""
    background: list[bool] = []
    right: dict[str, list[bool]] = {"colour": [], "shape": []}
    overlaps: list[float] = []
    pictures: list[np.ndarray] = []
    todo = list(cases(count, seed))
    for start in tqdm(range(0, count, BATCH), desc="sampling", unit="batch"):
        batch = todo[start : start + BATCH]
        words = [case.items[-1]["shape"] for case in batch]
        images, maps = pipeline.sample(
            [case.caption for case in batch], seed + start, STEPS, cfg, words
        )
        pictures += list(images)
        for case, image, word_map in zip(batch, images, maps, strict=True):
            reading = recognise(image)
            background.append(reading.background == case.background)
            for result in matches(reading, case.items):
                for attribute in right:
                    right[attribute].append(result[attribute])
            wanted = case.items[-1]
            found = [
                item for item in reading.items if item.colour == wanted["colour"]
            ] or reading.items
            overlaps.append(word_map_iou(word_map, found[0].mask) if found else 0.0)
    report = {
        "colour": float(np.mean(right["colour"])),
        "background": float(np.mean(background)),
        "shape": float(np.mean(right["shape"])),
        "vae_psnr": vae_psnr(pipeline, seed),
        "word_map_iou": float(np.mean(overlaps)),
        "captions": count,
        "steps": STEPS,
        "cfg": cfg,
    }
    return report, pictures


def vae_psnr(pipeline: Any, seed: int, count: int = 64) -> float:
    """Mean over held-out scenes of the autoencoder's round trip, in dB."""
    scenes: Sequence[Scene] = [
        sample_scene(random.Random(f"held out {seed} {n}")) for n in range(count)
    ]
    images = np.stack([render(scene) for scene in scenes])
    return float(
        np.mean([psnr(a, b) for a, b in zip(images, pipeline.round_trip(images), strict=True)])
    )


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("output/evaluate"))
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--cfg", type=float, default=CFG)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--model", type=Path, default=None, help="a demo checkpoint, instead of the shipped one"
    )
    options = parser.parse_args()
    try:
        host = find_hosts(clone=True)[0]
    except HostNotFound as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="p2p-evaluate-") as base:
        enter_host(host, Path(base))
        from ..hosts.comfyui.demo import DemoPipeline

        pipeline = DemoPipeline(options.model) if options.model else DemoPipeline()
        report, pictures = evaluate(pipeline, options.captions, options.seed, options.cfg)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(
        json.dumps({"host": host.version, **report}, indent=2) + "\n"
    )
    captions = [case.caption for case in cases(options.captions, options.seed)]
    grid(pictures[:32], captions[:32], columns=8).save(options.out / "samples.png")
    sys.stdout.write(json.dumps(report, indent=2) + f"\nSamples: {options.out / 'samples.png'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
