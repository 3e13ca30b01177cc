"""`make evaluate`: how good the demo models are.

Captions that training never saw are sampled with the host's own KSampler, and what is in the
pictures is read off by matching them against the renderer; held-out scenes go through the
autoencoder. Writes output/evaluate/report.json and sample sheets. The rows, captions, autoencoder
and mmdit (the captions as the second model shows them), can be asked for by name; a run that is
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from ..attention_maps import enlarged, normalised
from ..demo.joint_architecture import MODELS
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
from .metrics import psnr
from .report import JOINT, Row, measured, report_in_host, report_parser
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
    """Write captions that name the background and each object's colour and shape.

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
    """Measure a thresholded word map's overlap (IoU) with an object's mask, at the picture's size.

    The map is float[h w], the mask bool[H W].
    """
    region = enlarged(normalised(word_map[None]), *mask.shape)[0].numpy() > MAP_THRESHOLD
    return float((region & mask).sum() / max((region | mask).sum(), 1))


@dataclass(frozen=True)
class Evaluation:
    """A model to be judged, by how many captions, and the folder that the judgement goes to."""

    pipeline: Any
    """A `hosts.comfyui.demo.DemoPipeline`."""
    out: Path
    plan: Mapping[str, Any]
    """What figures depend on: `captions`, `seed`, `steps` and `cfg` are looked at."""

    def rows(self) -> dict[str, Row]:
        """Name every row of the report."""
        return {"captions": self.captions, "autoencoder": self.autoencoder}

    def autoencoder(self) -> dict[str, float]:
        """Measure the autoencoder's round trip of held-out scenes."""
        return {"vae_psnr": vae_psnr(self.pipeline, self.plan["seed"])}

    def captions(self) -> dict[str, float]:
        """Sample every caption and read the pictures; stopped, it goes on at the next batch."""
        todo = list(cases(self.plan["captions"], self.plan["seed"]))
        starts = range(0, len(todo), BATCH)
        batches = {str(at): partial(self._batch, at, todo[at : at + BATCH]) for at in starts}
        read = measured(self.out / "captions", self.plan, batches)
        return {
            name: float(np.mean([one for at in batches for one in read[at][name]]))
            for name in ("colour", "background", "shape", "word_map_iou")
        }

    def _batch(self, at: int, batch: Sequence[Case]) -> dict[str, Any]:
        """What is right in each picture or object; the first batch's pictures go on a sheet."""
        captions = [case.caption for case in batch]
        words = [case.items[-1]["shape"] for case in batch]
        plan = self.plan
        images, maps = self.pipeline.sample(
            captions, plan["seed"] + at, plan["steps"], plan["cfg"], words
        )
        seen: dict[str, list[float]] = {
            name: [] for name in ("colour", "background", "shape", "word_map_iou")
        }
        for case, image, word_map in zip(batch, images, maps, strict=True):
            reading = recognise(image)
            seen["background"].append(reading.background == case.background)
            for result in matches(reading, case.items):
                for attribute in ("colour", "shape"):
                    seen[attribute].append(result[attribute])
            wanted = case.items[-1]
            found = [
                item for item in reading.items if item.colour == wanted["colour"]
            ] or reading.items
            seen["word_map_iou"].append(word_map_iou(word_map, found[0].mask) if found else 0.0)
        if at == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            grid(list(images), captions, columns=8).save(self.out / "samples.png")
        sys.stderr.write(f"{at + len(batch)} of {plan['captions']} captions\n")
        return {str(at): seen}


def vae_psnr(pipeline: Any, seed: int, count: int = 64) -> float:
    """Measure the autoencoder's round trip of held-out scenes: the mean PSNR in dB."""
    scenes: Sequence[Scene] = [
        sample_scene(random.Random(f"held out {seed} {n}")) for n in range(count)
    ]
    images = np.stack([render(scene) for scene in scenes])
    return float(
        np.mean([psnr(a, b) for a, b in zip(images, pipeline.round_trip(images), strict=True)])
    )


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = report_parser("evaluate", __doc__)
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--cfg", type=float, default=CFG)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--model", type=Path, help="a demo checkpoint, instead of those that are shipped"
    )
    return report_in_host(parser.parse_args(), prepare)


def prepare(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Row]]:
    """Make the plan, and the rows of a checkpoint, or of the shipped ones."""
    first, *others = [options.model] if options.model else MODELS.values()
    plan = _plan(options, first)
    rows = _evaluation(first, options.out, plan).rows()
    if others:
        (second,) = others
        evaluation = _evaluation(second, options.out / JOINT, _plan(options, second))
        rows[JOINT] = lambda: {JOINT: evaluation.captions()}
    return plan, rows


def _plan(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    return {
        "model": f"{model.name} {crc32(model.read_bytes()):08x}",
        "captions": options.captions,
        "steps": STEPS,
        "cfg": options.cfg,
        "seed": options.seed,
    }


def _evaluation(model: Path, out: Path, plan: Mapping[str, Any]) -> Evaluation:
    from ..hosts.comfyui.demo import DemoPipeline

    return Evaluation(DemoPipeline(model), out, plan)


if __name__ == "__main__":
    raise SystemExit(main())
