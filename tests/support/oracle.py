"""Attention with its maps made in the open, from the paper's definitions: what edits are held to.

q is [rows pixels (heads width)], k and v are [rows tokens (heads width)].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from p2p_core.attention import RowEdit

HEADS = 2


def split_heads(x: Tensor, heads: int = HEADS) -> Tensor:
    """[rows n (heads width)] → [rows heads n width]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def explicit_maps(q: Tensor, k: Tensor, heads: int = HEADS) -> Tensor:
    """M = softmax(QKᵀ/√d): [rows heads pixels tokens]."""
    q, k = split_heads(q, heads), split_heads(k, heads)
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)


def output_of(maps: Tensor, v: Tensor) -> Tensor:
    """M V, heads joined: [rows pixels (heads width)]."""
    return (maps @ split_heads(v, maps.shape[1])).transpose(1, 2).flatten(2)


def edited_maps(maps: Tensor, edits: Sequence[RowEdit]) -> Tensor:
    """M̂ = (M_src · inject + M_edit · diag(keep)) · diag(equalizer), all other rows their own M.

    Rows that are renormalised sum to what they do without an equalizer.
    """
    edited = maps.clone()
    for edit in edits:
        pair = edit.map_edit.to(maps.dtype)
        held = maps[edit.source] @ pair.inject + maps[edit.row] * pair.keep
        edited[edit.row] = held * pair.equalizer
        if edit.renormalised:
            without, factored = (m.sum(-1, keepdim=True) for m in (held, edited[edit.row]))
            edited[edit.row] *= without / factored
    return edited


def self_edited_maps(maps: Tensor, edits: Sequence[RowEdit]) -> Tensor:
    """Each row's own M, or its source's where self-attention is injected."""
    edited = maps.clone()
    for edit in edits:
        if edit.reaches:
            edited[edit.row] = maps[edit.source]
    return edited


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The output of attention that nothing edits."""
    return output_of(explicit_maps(q, k), v)
