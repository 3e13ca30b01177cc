"""Rendered scenes in the layout of PIE-Bench, to try its benchmark on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...demo.scenes import render
from ..shapes.cases import Case, cases

TYPES: Mapping[str, tuple[str, str]] = {
    "object": ("1", "1_change_object"),
    "add": ("2", "2_add_object"),
    "delete": ("3", "3_delete_object"),
    "size": ("4", "4_change_attribute_content"),
    "colour": ("6", "6_change_attribute_color"),
    "pattern": ("7", "7_change_attribute_material"),
    "background": ("8", "8_change_background"),
}
"""The kinds of `cases.KINDS` as PIE-Bench numbers and names them."""


def write_sample(folder: Path, count: int, seed: int) -> None:
    """Write mapping_file.json and annotation_images with so many cases."""
    mapping: dict[str, dict[str, Any]] = {}
    for number, case in enumerate(cases(count, seed)):
        kind, place = TYPES[case.kind]
        key = f"{number:012}"
        image = f"{place}/{key}.jpg"
        path = folder / "annotation_images" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(case.scene)).save(path, quality=95)
        before, after = _marked(case.prompt, case.edited_prompt)
        mapping[key] = {
            "image_path": image,
            "original_prompt": before,
            "editing_prompt": after,
            "editing_instruction": f"Change the picture to {case.edited_prompt}",
            "editing_type_id": kind,
            "blended_word": " ".join(case.words),
            "mask": _runs(case),
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping, indent=1) + "\n")


def _marked(*prompts: str) -> tuple[str, ...]:
    """Prompts with the words that the others lack in brackets."""
    words = [prompt.split() for prompt in prompts]
    shared = set.intersection(*map(set, words))
    return tuple(
        " ".join(word if word in shared else f"[{word}]" for word in prompt) for prompt in words
    )


def _runs(case: Case) -> list[int]:
    """Where runs of pixels to be edited start, and how long they are."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~case.kept.ravel(), [False]])))
    starts, ends = edges[::2], edges[1::2]
    return [int(n) for pair in zip(starts, ends - starts, strict=True) for n in pair]
