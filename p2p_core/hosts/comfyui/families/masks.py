"""Masks of the host's attention: those that hide padding, and an entry for each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def without_padding(
    mask: Tensor | None, padded: Mapping[int, int], before: int, tokens: int, k: Tensor
) -> Tensor:
    """Make a mask under which nothing looks at tokens that prompts are padded with.

    Of the keys `k`, `tokens` are text, behind `before` others; `padded` are rows whose text ends
    before that, and how many tokens it has. `mask` is what hides others already.
    """
    seen = k.new_zeros(k.shape[0], 1, 1, k.shape[-2])
    for row, length in padded.items():
        seen[row, ..., before + length : before + tokens] = -torch.inf
    if mask is None:
        return seen
    if mask.dtype == torch.bool:
        return mask.view(*_four(mask)) & (seen == 0)
    return mask.view(*_four(mask)) + seen


def _four(mask: Tensor) -> tuple[int, ...]:
    """The shape of a mask with axes for rows, heads, queries and keys."""
    rows, heads = {2: (1, 1), 3: (mask.shape[0], 1)}.get(mask.ndim, tuple(mask.shape[:2]))
    return rows, heads, *mask.shape[-2:]


def by_row(mask: Tensor | None, rows: int) -> Tensor | None:
    """Give a mask an entry for each row: [rows heads queries keys]."""
    if mask is None:
        return None
    mask = mask.view(*_four(mask))
    return mask.expand(rows, -1, -1, -1)
