"""PIE-Bench in its published layout: mapping_file.json beside annotation_images.

Ju et al. 2024, *PnP Inversion*: 700 images with prompts, ten kinds of edits, and a mask of what is
to change. The data is the user's to bring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...jobs.edit import Edit
from ...jobs.photographs import size_of_photograph
from ...jobs.places import check_name, same_name
from ...jobs.reading import parse_json, read_text, shown
from .compared import InfEdit

KINDS: Mapping[str, str] = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
"""Of edits, by their numbers in the mapping file."""

PUBLISHED: Mapping[str, Any] = {
    "inject_swapped": False,
    "cross_replace_end": 0.4,
    "self_replace_end": 0.6,
}
"""Prompt-to-Prompt as in the published runs, but for how timesteps are spaced there.

Their reach of self-attention, layers of up to 32×32 cells, is what an `Edit` does unasked.
"""
SPACED: Mapping[str, Any] = {**PUBLISHED, "scheduler": "ddim_uniform"}

INFEDIT = "infedit"

METHODS: Mapping[str, Mapping[str, Any]] = {
    "ddim": {**SPACED, "inversion": "ddim"},
    "null-text": {**SPACED, "inversion": "null-text", "authors_schedule": True},
    "negative-prompt": {**SPACED, "inversion": "negative-prompt"},
    "direct": {**SPACED, "inversion": "direct"},
    "null-text-fast": {**SPACED, "inversion": "null-text"},
    "direct-shared": {**SPACED, "inversion": "direct-shared"},
    "edit-friendly": {
        **PUBLISHED,
        "inversion": "edit-friendly",
        "sampler": "euler_ancestral",
        "denoise": 0.7,
    },
    INFEDIT: {
        "cross_replace_end": 0.7,
        "self_replace_end": 0.7,
        "steps": 12,
        "cfg": 2.3,
    },
}
"""The published table's rows, which are the first four, inversions with Prompt-to-Prompt, and the
last; and others."""

DINO, CLIP = "vit_base_patch8_224.dino", "openai"
"""The measures' networks, as timm and open_clip name their weights."""

AMPLIFIED = 2.0
"""What the published runs multiply the blended word of the edited prompt with."""


@dataclass(frozen=True)
class Case:
    """An image, its prompts, and where it is to change."""

    key: str
    image: Path
    prompt: str
    edited_prompt: str
    kind: str
    blend: tuple[str, str] | None
    mask: tuple[int, ...]
    """Run lengths of the region to be edited: where a run starts, how long it is, and so on."""

    def region(self, height: int, width: int) -> np.ndarray:
        """Mark what is to be edited: bool[height width], the image's border being counted to it.

        The published code does so, to be safe from annotations that stop short of the border.
        Raises `ValueError` for a mask that is none of such an image.
        """
        flat = np.zeros(height * width, dtype=bool)
        for start, length in zip(self.mask[::2], self.mask[1::2], strict=True):
            if not 0 <= start < len(flat) or length < 0:
                raise ValueError(
                    f"Expected the mask of case {self.key} to be of an image of {width}×{height} "
                    f"pixels, got a run that starts at {start}."
                )
            flat[start : start + length] = True
        region = flat.reshape(height, width)
        region[[0, -1], :] = True
        region[:, [0, -1]] = True
        return region

    def edit(self, method: str, **settings: Any) -> Edit | InfEdit:
        """Make the edit as published: refined, swapped words free, blended words amplified.

        A blended word that is not in its prompt is left out, and so is a blend without words. (In
        the published code nothing would change where both are missing, by a division by zero.)
        """
        before, after = self.blend or ("", "")
        before = before if _stands_in(before, self.prompt) else ""
        after = after if _stands_in(after, self.edited_prompt) else ""
        own = METHODS[method]
        given = {"source": self.prompt, "refine": self.edited_prompt, "image": str(self.image)}
        if method == INFEDIT:  # which blends by the edited prompt's word, its first one
            return InfEdit(**given, words=(f"{after} #1",) if after else (), **{**settings, **own})
        reweight = ((after, AMPLIFIED),) if after else ()
        blend = (f"{before}={after}",) if before or after else ()
        return Edit(**given, reweight=reweight, blend=blend, **{**settings, **own})


def _stands_in(word: str, prompt: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE))


def read_cases(folder: Path) -> list[Case]:
    """Read the data set's cases.

    Raises `ValueError` naming every case that is not as published, and for a folder without them.
    """
    path = folder / "mapping_file.json"
    try:
        mapping = _mapping(path)
    except ValueError as error:
        raise ValueError(
            f"Expected PIE-Bench in {folder}, but {error} Give the folder that holds "
            "mapping_file.json and annotation_images."
        ) from error
    cases: list[Case] = []
    wrong: list[str] = []
    taken: dict[str, str] = {}
    for key, entry in mapping.items():
        try:
            check_name(key)
            if (other := taken.setdefault(same_name(key), key)) != key:
                raise ValueError(f"Expected another name than {other}, the same on some systems.")
            cases.append(_case(key, entry, folder / "annotation_images"))
        except (KeyError, TypeError, OverflowError) as error:
            wrong.append(
                f"{path}, {shown(key)}: Expected the published fields, got none or another: "
                f"{error}."
            )
        except ValueError as error:
            wrong.append(f"{path}, {shown(key)}: {error}")
    if wrong or not cases:
        raise ValueError("\n".join(wrong) or f"Expected cases in {path}, which has none.")
    return cases


def _mapping(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        mapping = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{path} holds no object: {shown(mapping)}.")
    return mapping


def _case(key: str, entry: Mapping[str, Any], images: Path) -> Case:
    image = images / entry["image_path"]
    width, height = size_of_photograph(image)
    kind = str(entry["editing_type_id"])
    if kind not in KINDS:
        raise ValueError(f"Expected an editing_type_id of 0 to 9, got {kind!r}.")
    words: Sequence[str] = str(entry["blended_word"]).split()
    mask = entry["mask"]
    if not isinstance(mask, list) or not all(type(one) is int for one in mask) or len(mask) % 2:
        raise ValueError(f"Expected pairs of whole numbers in the mask, got {shown(mask)}.")
    prompt, edited = (
        " ".join(str(entry[name]).replace("[", "").replace("]", "").split())
        for name in ("original_prompt", "editing_prompt")
    )
    blend = (words[0], words[1]) if len(words) > 1 else None
    case = Case(key, image, prompt, edited, KINDS[kind], blend, tuple(mask))
    case.region(height, width)
    return case
