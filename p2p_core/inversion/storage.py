"""An inversion's file: safetensors with facts and a checksum, written whole and read with care."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from ..files import write_whole

log = logging.getLogger("p2p.inversion")

FORMAT = "p2p_inversion"
VERSION = "1"
CHECKSUM = "sha256"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Tensors = Mapping[str, Tensor]
"""By the names that `Inversion` and `Found` have for them."""


def write(path: Path, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write tensors and facts to a file that appears whole or not at all; raises `OSError`."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = json.dumps(facts)
    write_whole(path, save(own, {FORMAT: VERSION, "facts": said, CHECKSUM: _checksum(own, said)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote; raises `ValueError` for anything else, whatever it is."""
    if not path.is_file():  # a pipe would never be read to its end
        raise ValueError(
            f"Expected an inversion's safetensors file, got {path.name}, which cannot be read: "
            f"{'it is no regular file' if path.exists() else 'there is none'}. Choose a file that "
            "P2P Save Inversion or p2p invert wrote."
        )
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"Expected an inversion's safetensors file, got {path.name}, which cannot be read: "
            f"{error}. Save the inversion again."
        ) from error
    if metadata.get(FORMAT) != VERSION:
        raise ValueError(
            f"Expected an inversion of version {VERSION}, got {path.name} "
            f"with {metadata.get(FORMAT, 'none')}. Save the inversion again with this pack."
        )
    said = metadata.get("facts", "")
    if CHECKSUM not in metadata:
        log.warning("%s has no checksum: an older version wrote it. Save it again.", path.name)
    elif metadata[CHECKSUM] != _checksum(tensors, said):
        raise ValueError(
            f"Expected an inversion as it was saved, got {path.name}, whose checksum is another's: "
            "the file is damaged. Save the inversion again."
        )
    try:
        facts = json.loads(said)
    except (ValueError, RecursionError) as error:
        wrong: str | None = f"its facts cannot be read ({error})"
    else:
        wrong = next(_complaints(tensors, facts), None)
    if wrong:
        raise ValueError(
            f"Expected an inversion whose parts fit together, got {path.name}: {wrong}. Save the "
            "inversion again."
        )
    return tensors, facts


def _checksum(tensors: Tensors, facts: str) -> str:
    """Of all numbers, with their names, types and shapes, and of the facts."""
    digest = sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def _complaints(tensors: Tensors, facts: Any) -> Iterator[str]:
    """What is wrong with parts that a file has, the cause before what follows from it."""
    if not isinstance(facts, dict):
        yield f"its facts are no object but {type(facts).__name__}"
        return
    if missing := [name for name in TENSORS if name not in tensors and name not in OPTIONAL]:
        yield f"{', '.join(missing)} missing"
    if unknown := tensors.keys() - TENSORS:
        yield f"{', '.join(sorted(unknown))} unknown"
    for name, (rank, _) in TENSORS.items():
        part = tensors.get(name)
        if part is None:
            continue
        if name in VIDEOS:  # have frames besides
            rank += tensors["latent"].ndim == RANK_OF_VIDEOS
        if part.dtype not in FLOATS:
            yield f"{name} of {part.dtype}, which is no floating-point type of 16 bits or more"
        if part.ndim != rank or not part.numel():
            yield f"{name} of shape {list(part.shape)}, which has not {rank} axes with numbers"
        if not torch.isfinite(part).all():
            yield f"{name} with numbers that are not finite"
    sigmas = tensors["sigmas"].tolist()
    if len(sigmas) < 2 or sigmas[-1] != 0 or not all(a > b for a, b in pairwise(sigmas)):
        yield "noise levels that do not fall to 0"
    images = len(tensors["latent"])
    axes = {"levels": len(sigmas), "steps": len(sigmas) - 1, "images": images}
    for name, (_, beginning) in TENSORS.items():
        wanted = (*(axes[axis] for axis in beginning.split()),)
        wanted += tuple(tensors["latent"].shape[1:]) if name in LIKE_THE_LATENT else ()
        part = tensors.get(name)
        if part is not None and part.shape[: len(wanted)] != wanted:
            yield f"{name} of shape {list(part.shape)}, which does not begin with {list(wanted)}"
    for name, kind in FACTS.items():
        if name not in facts:
            if name not in LATER:
                yield f"{name} missing"
        elif not _is(kind, facts[name]):
            yield f"{name} is not {KINDS[kind]} but {str(facts[name])[:40]}"
    if unknown := facts.keys() - FACTS:
        yield f"{', '.join(sorted(unknown))} unknown"
    if not 0 <= facts["proximal"] < 1:
        yield f"proximal of {facts['proximal']:g}, which is not within 0 and 1"
    for name in ("psnr", "picture", "limit", "explained"):
        if facts.get(name) and [type(one) for one in facts[name]] != [float] * images:
            yield f"{name} is no number for each of {images} image(s)"


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind


TENSORS = {
    "sigmas": (1, "levels"),
    "latent": (4, "images"),
    "trajectory": (5, "levels images"),
    "reconstruction": (4, "images"),
    "nulls": (4, "steps images"),
    "source": (1, ""),
    "negative": (1, ""),
    "probe": (1, ""),
    "residual": (5, "steps images"),
}
"""How many axes each has, and which it begins with."""

LIKE_THE_LATENT = ("trajectory", "reconstruction", "residual")
"""Those whose other axes are the latent's."""

OPTIONAL = ("nulls", "residual")
"""Those that some methods find and others do not."""

VIDEOS = ("latent", *LIKE_THE_LATENT)
RANK_OF_VIDEOS = 5
"""The axes of a latent with frames, one more than an image's, as have these then."""


KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
}
FACTS = {
    "method": str,
    "prompt": str,
    "guidance": float,
    "psnr": list,
    "proximal": float,
    "put_back": bool,
    "shared": bool,
    "source_as_negative": bool,
    "steps": int,
    "scheduler": str,
    "denoise": float,
    "picture": list,
    "limit": list,
    "explained": list,
}

LATER = ("steps", "scheduler", "denoise", "picture", "limit", "explained")
"""Facts that files of the first release do not have."""
