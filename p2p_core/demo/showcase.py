"""`make demo`: word swaps in the real ComfyUI, and how well they keep the rest of the picture.

Runs workflows/word_swap_demo.json on a server for pairs of prompts and batches of seeds, and writes
output/demo/: a contact sheet (source | re-prompted | Prompt-to-Prompt) and report.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from ..hosts.locate import HostNotFound, find_hosts
from ..hosts.server import PromptFailed, Server, ServerFailed
from ..hosts.workflow import by_type, to_prompt
from .metrics import psnr
from .recognise import Reading, matches, recognise
from .scenes import with_article
from .sheet import grid

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "word_swap_demo.json"
VARIANTS = ("source", "reprompt", "p2p")


@dataclass(frozen=True)
class Pair:
    """A source prompt, the words swapped, and what the edited picture's object must then be."""

    prompt: str
    words: str
    replacement: str
    wanted: tuple[Mapping[str, str], ...]

    @property
    def edited(self) -> str:
        return self.prompt.replace(self.words, self.replacement, 1)


def _pair(colour: str, shape: str, ground: str, **change: str) -> Pair:
    """A prompt of one object and a change of its `colour` or `shape`, given as `to_…`."""
    ((attribute, replacement),) = change.items()
    before = {"colour": colour, "shape": shape}
    after = {**before, attribute.removeprefix("to_"): replacement}
    words = before[attribute.removeprefix("to_")]
    return Pair(with_article(f"{colour} {shape} {ground}"), words, replacement, (after,))


PAIRS: dict[str, tuple[Pair, ...]] = {
    "shape_swap": (
        _pair("red", "circle", "on the grass", to_shape="star"),
        _pair("blue", "square", "on sand", to_shape="heart"),
        _pair("yellow", "star", "at night", to_shape="circle"),
        _pair("purple", "triangle", "in the snow", to_shape="moon"),
        _pair("black", "heart", "in the sky", to_shape="cross"),
        _pair("orange", "ring", "in the sea", to_shape="square"),
        _pair("green", "cross", "on stone", to_shape="triangle"),
        _pair("pink", "moon", "on clay", to_shape="ring"),
    ),
    "colour_swap": (
        _pair("red", "circle", "on the grass", to_colour="blue"),
        _pair("blue", "square", "on sand", to_colour="red"),
        _pair("yellow", "star", "at night", to_colour="pink"),
        _pair("purple", "triangle", "in the snow", to_colour="green"),
        _pair("black", "heart", "in the sky", to_colour="red"),
        _pair("pink", "ring", "in the sea", to_colour="yellow"),
        _pair("green", "cross", "on stone", to_colour="purple"),
        _pair("yellow", "moon", "on clay", to_colour="black"),
    ),
}


WINDOWS: dict[str, dict[str, float]] = {
    "shape_swap": {"cross_replace_end": 0.5, "self_replace_end": 0.0},
    "colour_swap": {"cross_replace_end": 0.8, "self_replace_end": 0.4},
}
"""A new shape needs its own outline; a new colour does not."""

MARGIN = 4
"""Pixels around an object that are not yet background: edges are soft."""


def background_psnr(a: np.ndarray, b: np.ndarray, readings: Sequence[Reading]) -> float:
    """Of two uint8 pictures outside every object of both readings, in dB."""
    outside = np.ones(a.shape[:2], dtype=bool)
    for reading in readings:
        for item in reading.items:
            outside &= ~binary_dilation(item.mask, iterations=MARGIN)
    return psnr(a[outside], b[outside])


def run_pair(
    server: Server, prompt: Mapping[str, Any], kind: str, pair: Pair, seeds: int, seed: int
) -> dict[str, list[Any]]:
    """Pictures of each variant, uint8[128 128 3], `seeds` of each; `prompt` is the workflow's."""
    prompt = copy.deepcopy(prompt)
    by_type(prompt, "P2P_WordSwap").update(
        words=pair.words, replacement=pair.replacement, **WINDOWS[kind]
    )
    by_type(prompt, "P2P_Controller").update(source_prompt=pair.prompt)
    by_type(prompt, "EmptyLatentImage").update(batch_size=seeds)
    by_type(prompt, "P2P_KSampler").update(seed=seed)
    by_type(prompt, "KSampler").update(seed=seed)
    outputs = server.queue(prompt)
    pictures: dict[str, list[Any]] = {}
    for node, output in outputs.items():
        variant = prompt[node]["inputs"].get("filename_prefix", "").removeprefix("p2p_")
        if variant in VARIANTS:
            pictures[variant] = [
                np.asarray(image.convert("RGB")) for image in server.images({node: output})
            ]
    return pictures


def measure(
    pictures: Mapping[str, Sequence[np.ndarray]], pair: Pair
) -> dict[str, list[tuple[float, float]]]:
    """Of re-prompting and of Prompt-to-Prompt, an (edit success, background PSNR) a seed."""
    results: dict[str, list[tuple[float, float]]] = {"reprompt": [], "p2p": []}
    for n, source in enumerate(pictures["source"]):
        before = recognise(source)
        for variant, values in results.items():
            picture = pictures[variant][n]
            after = recognise(picture)
            success = all(all(right.values()) for right in matches(after, pair.wanted))
            values.append((float(success), background_psnr(source, picture, (before, after))))
    return results


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--seeds", type=int, default=5, help="seeds a pair of prompts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    try:
        host = find_hosts(clone=True)[0]
        sys.stdout.write(f"Starting ComfyUI {host.version} ({host.path})\n")
        with Server(host) as server:
            report, sheet = showcase(server, workflow, options.seeds, options.seed)
    except (HostNotFound, ServerFailed, PromptFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(
        json.dumps({"host": host.version, **report}, indent=2) + "\n"
    )
    sheet.save(options.out / "word_swap.png")
    sys.stdout.write(
        json.dumps(report, indent=2) + f"\nPictures: {options.out / 'word_swap.png'}\n"
    )
    return 0


def showcase(
    server: Server, workflow: Mapping[str, Any], seeds: int, seed: int
) -> tuple[dict[str, Any], Any]:
    """Run every pair: (report, contact sheet)."""
    report: dict[str, Any] = {"pairs": seeds * sum(len(pairs) for pairs in PAIRS.values())}
    prompt = to_prompt(workflow, server.get("/object_info"))
    images: list[np.ndarray] = []
    captions: list[str] = []
    with tqdm(
        total=sum(len(pairs) for pairs in PAIRS.values()), desc="word swaps", unit="prompt"
    ) as bar:
        for kind, pairs in PAIRS.items():
            collected: dict[str, list[tuple[float, float]]] = {"reprompt": [], "p2p": []}
            for n, pair in enumerate(pairs):
                pictures = run_pair(server, prompt, kind, pair, seeds, seed + n)
                for variant, values in measure(pictures, pair).items():
                    collected[variant] += values
                if n < 4:
                    images += [pictures[variant][0] for variant in VARIANTS]
                    captions += [pair.prompt, pair.edited, f"{pair.words} to {pair.replacement}"]
                bar.update()
            report[kind] = {
                variant: {
                    "background_psnr": float(np.mean([psnr for _, psnr in values])),
                    "edit_success": float(np.mean([success for success, _ in values])),
                }
                for variant, values in collected.items()
            }
    heads = ("source", "re-prompted, same seed", "Prompt-to-Prompt") * 2
    return report, grid(images, captions, columns=6, heads=heads, scale=2)


if __name__ == "__main__":
    raise SystemExit(main())
