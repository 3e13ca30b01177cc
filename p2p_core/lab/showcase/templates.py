"""Run the shipped workflows as they are, and keep their pictures as thumbnails.

    python -m p2p_core.lab.showcase.templates           # workflows/*.jpg: before | after
    python -m p2p_core.lab.showcase.templates 1_word_swap

Workflows for checkpoints that do not come with the pack are run as twins on the demo model: the
same graph with its checkpoint, prompts and picture replaced.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...hosts.launch.locate import ROOT, find_hosts
from ...hosts.launch.server import Server
from ...hosts.launch.workflow import by_type, to_prompt

FOLDER = ROOT / "workflows"
PREFIX = "p2p_"
HEIGHT, GAP = 256, 4

Pictures = dict[str, list[np.ndarray]]
"""Pictures, uint8[height width 3], by what a workflow saves them as, without `PREFIX`."""

SHOWN: Mapping[str, Sequence[str]] = {
    "4_local_blend": ("source", "p2p", "mask"),
    "5_attention_maps": ("heatmaps",),
    "11_word_swap_flux2_klein": ("both",),
}
"""What is in the thumbnail of a workflow, where that is not source and edits."""

WINDOWS = {"cross_replace_end": 0.8, "self_replace_end": 0.4, "blocks": "all"}
OUTLINES = {**WINDOWS, "self_replace_end": 0.8}
"""For another colour."""
SAMPLED = {"cfg": 3.0, "steps": 30, "sampler_name": "euler", "scheduler": "normal"}

LOADERS: Mapping[str, Sequence[int]] = {
    "CheckpointLoaderSimple": (0, 1, 2),
    "UNETLoader": (0,),
    "CLIPLoader": (1,),
    "DualCLIPLoader": (1,),
    "VAELoader": (2,),
}
"""The demo checkpoint's outputs in the place of theirs, by the type of a loader."""

SHIFTS = ("ModelSamplingAuraFlow", "ModelSamplingSD3")
"""What only models of other kinds need: its model is taken as it is."""

LATENTS = (
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "EmptyFlux2LatentImage",
    "Wan22ImageToVideoLatent",
)
SMALL: Mapping[str, Any] = {"width": 128, "height": 128, "batch_size": 1}
STANDS_FOR: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **dict.fromkeys(LOADERS, ("P2P_DemoCheckpoint", {})),
    **dict.fromkeys(LATENTS, ("EmptyLatentImage", SMALL)),
}
"""Nodes of the twins, with their inputs, by the type in whose place they are."""

TWINS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "7_word_swap_sd15": {
        "P2P_Controller": {"source_prompt": "a red circle on the grass"},
        "P2P_WordSwap": {"words": "circle", "replacement": "star", "self_replace_reach": 0.0},
        "P2P_KSampler": {"seed": 12, "cfg": 3.0, "steps": 30},
        "KSampler": {"seed": 12, "cfg": 3.0, "steps": 30},
    },
    "8_photo_sd15": {
        "LoadImage": {"image": 11},
        "ImageScaleToTotalPixels": {"megapixels": 128 * 128 / 1024**2},
        "P2P_NullTextInversion": {"source_prompt": "a yellow star on clay", "cfg": 3.0},
        "P2P_WordSwap": {"words": "star", "replacement": "circle"},
        "P2P_LocalBlend": {"source_words": "star", "edited_words": "circle"},
        "P2P_KSampler": {"cfg": 3.0},
    },
    "9_photo_sdxl": {
        "LoadImage": {"image": 10},
        "ImageScaleToTotalPixels": {"megapixels": 128 * 128 / 1024**2},
        "P2P_NullTextInversion": {"source_prompt": "a yellow moon on snow", "cfg": 3.0},
        "P2P_WordSwap": {"words": "yellow", "replacement": "blue"},
        "P2P_LocalBlend": {"source_words": "moon", "edited_words": "moon"},
        "P2P_KSampler": {"cfg": 3.0},
    },
    "10_word_swap_flux": {
        "P2P_Controller": {"source_prompt": "a yellow star on the grass"},
        "P2P_WordSwap": {"words": "star", "replacement": "heart", **WINDOWS},
        "P2P_KSampler": {"seed": 12, **SAMPLED},
    },
    "11_word_swap_flux2_klein": {
        "P2P_Controller": {"source_prompt": "a blue circle on snow"},
        "P2P_WordSwap": {"words": "blue", "replacement": "red", **OUTLINES},
        "RandomNoise": {"noise_seed": 5},
        "P2P_Guider": {"cfg": 3.0},
    },
    "12_word_swap_sd35": {
        "P2P_Controller": {"source_prompt": "a red square on the grass"},
        "P2P_WordSwap": {"words": "square", "replacement": "circle", **WINDOWS},
        "P2P_KSampler": {"seed": 4, **SAMPLED},
    },
    "13_word_swap_qwen_image": {
        "P2P_Controller": {"source_prompt": "a yellow moon on clay"},
        "P2P_WordSwap": {"words": "moon", "replacement": "star", **WINDOWS},
        "P2P_KSampler": {"seed": 5, **SAMPLED},
    },
    "14_word_swap_z_image": {
        "P2P_Controller": {"source_prompt": "a red star on snow"},
        "P2P_WordSwap": {"words": "red", "replacement": "blue", **OUTLINES},
        "P2P_KSampler": {"seed": 6, **SAMPLED},
    },
    "15_word_swap_anima": {
        "P2P_Controller": {"source_prompt": "a yellow heart on clay"},
        "P2P_WordSwap": {"words": "yellow", "replacement": "blue", **OUTLINES},
        "P2P_KSampler": {"seed": 12, **SAMPLED},
    },
    "16_video_wan22": {
        "P2P_Controller": {"source_prompt": "a red circle on clay"},
        "P2P_WordSwap": {"words": "red", "replacement": "blue", **OUTLINES},
        "P2P_KSampler": {"seed": 11, **SAMPLED},
    },
    "17_word_weights_z_image": {
        "P2P_WordWeights": {"prompt": "a blue (striped:-0.5) square on the grass"},
        "CLIPTextEncode": {"text": "a blue striped square on the grass"},
        "KSampler": {"seed": 9, **SAMPLED},
    },
    "18_hires_fix_sdxl": {
        "P2P_Controller": {"source_prompt": "a red heart on sand"},
        "P2P_WordSwap": {"words": "red", "replacement": "green"},
        "P2P_KSampler": {"seed": 3, "cfg": 3.0},
    },
}
"""What makes the demo model's twin of a workflow: inputs by the type of their node."""


def read(name: str, object_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read a shipped workflow in the API form, with what the server says of its nodes."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return to_prompt(workflow, object_info)


def twin(name: str, prompt: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Put the prompt of a workflow for a stock checkpoint on the demo model."""
    changed = copy.deepcopy(dict(prompt))
    for node in changed.values():
        for link in (value for value in node["inputs"].values() if isinstance(value, list)):
            while changed[link[0]]["class_type"] in SHIFTS:
                link[:] = changed[link[0]]["inputs"]["model"]
            kind = changed[link[0]]["class_type"]
            link[1] = LOADERS[kind][link[1]] if kind in LOADERS else link[1]
    for node in changed.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in STANDS_FOR:
            class_type, own = STANDS_FOR[kind]
            node.update(class_type=class_type, inputs=dict(own))
        elif kind == "CLIPTextEncode":
            if isinstance(inputs["text"], str):
                inputs["text"] = inputs["text"] and TWINS[name].get(kind, {}).get("text", "")
            continue
        elif kind == "LoadImage":
            (number,) = object_info["P2P_DemoImage"]["input"]["required"]
            node.update(class_type="P2P_DemoImage", inputs={number: TWINS[name][kind]["image"]})
            continue
        elif kind == "Flux2Scheduler":
            model = by_type(changed, "P2P_Guider")["model"]
            inputs = {"model": model, "scheduler": "normal", "steps": 30, "denoise": 1.0}
            node.update(class_type="BasicScheduler", inputs=inputs)
        elif kind == "SaveWEBM":
            saved = {name: inputs[name] for name in ("images", "filename_prefix")}
            node.update(class_type="SaveImage", inputs=saved)
        node["inputs"].update(TWINS[name].get(kind, {}))
    return changed


def run(server: Server, prompt: Mapping[str, Any]) -> Pictures:
    """Run a prompt, and read the pictures that it saves."""
    return {
        prompt[node]["inputs"]["filename_prefix"].removeprefix(PREFIX): [
            np.asarray(image.convert("RGB")) for image in server.images({node: output})
        ]
        for node, output in server.queue(prompt).items()
        if output.get("images")
    }


def strip(pictures: Sequence[np.ndarray], height: int = HEIGHT) -> Image.Image:
    """Pictures side by side, each of this height, with gaps of white."""
    scaled = [
        Image.fromarray(picture).resize(
            (round(picture.shape[1] * height / picture.shape[0]), height), Image.Resampling.LANCZOS
        )
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + GAP * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row


def thumbnail(name: str, server: Server, object_info: Mapping[str, Any]) -> Image.Image:
    """Before and after, from a real run."""
    prompt = read(name, object_info)
    if name in TWINS:
        prompt = twin(name, prompt, object_info)
    pictures = run(server, prompt)
    shown = [one for key in SHOWN.get(name, ("source", "p2p")) for one in pictures[key]]
    return strip(shown[:3])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"workflows, else all: {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with Server(find_hosts()[0]) as server:
        object_info = server.get("/object_info")
        for name in options.names or names:
            thumbnail(name, server, object_info).save(options.out / f"{name}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
