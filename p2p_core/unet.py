"""What is a UNet's own: layers of several sizes, which edits and looks choose from."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log2

import torch

from .attention import CrossEdit, RowEdit, SelfEdit
from .edits import Reach

AUTOMATIC_PIXELS = 32**2
"""Pixels of the largest layers into which self-attention is injected where no reach is given.

The rule of the authors' null-text notebook and of the published PIE-Bench runs.
"""


def joined(
    edits: Sequence[RowEdit], rows: int, size: Sequence[int], device: torch.device
) -> tuple[CrossEdit | None, SelfEdit | None]:
    """Join the edits of a call of `rows` rows and latents of `size` (height, width)."""
    limits = [
        (edit.row, edit.source, limit(reach, size[0] * size[1]))
        for edit in edits
        for reach in edit.reaches
    ]
    return CrossEdit.of(edits, rows, device), SelfEdit.of(limits, rows, device)


def limit(reach: Reach, latent_pixels: int) -> float:
    """Pixels of a layer that are too many for a reach (see `edits.SelfInjection`).

    A UNet halves sides and rounds up, so a layer of a quarter of an odd side is a little larger
    than that. It counts as a quarter: the next size has four times its pixels.
    """
    if reach is None:
        return AUTOMATIC_PIXELS + 1
    side = 2.0 ** floor(log2(reach * (1 + 1e-3)))
    return 2 * side**2 * latent_pixels


def is_of_side(side: float, layer: Sequence[int], latent: Sequence[int]) -> bool:
    """Tell whether a layer of this (height, width) has sides of this fraction of the latent's."""
    return list(layer) == [ceil(length * side) for length in latent]
