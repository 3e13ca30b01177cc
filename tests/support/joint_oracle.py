"""Joint attention with its maps made in the open, from the definitions: what edits are held to.

q, k and v are [rows tokens (heads width)], text and image in one sequence.
"""

from __future__ import annotations

import torch
from oracle import HEADS, output_of, split_heads

from p2p_core.edits import ALIGNED


def logits(q, k, heads=HEADS):
    """QKᵀ/√d: [rows heads queries keys]."""
    q, k = split_heads(q, heads), split_heads(k, heads)
    return q @ k.mT * q.shape[-1] ** -0.5


def joint_output(q, k, v, edits, text, image, heads=HEADS, mask=None):
    """Each row's output: text queries their own, image queries by the edited map.

    `edits` are `RowEdit`s; `text` and `image` are slices of the sequence; `mask`, if any, is added
    to the logits: [rows queries keys].
    """
    out = torch.empty_like(v)
    plain = torch.zeros(len(q), q.shape[1], q.shape[1]).double() if mask is None else mask
    maps = (logits(q, k, heads) + plain[:, None]).softmax(-1)
    for row in range(len(q)):
        out[row] = output_of(maps[row : row + 1], v[row : row + 1])
    for edit in edits:
        row, source, pair = edit.row, edit.source, edit.map_edit.to(q.dtype)
        keys, asked = k[row].clone(), q[row].clone()
        if edit.reaches and edit.mode != ALIGNED:
            keys[image], asked[image] = k[source, image], q[source, image]
        own = (logits(asked[None], keys[None], heads) + plain[row]).softmax(-1)
        if edit.mode != ALIGNED:
            out[row] = output_of(own, v[row : row + 1])  # text queries see the source's image, too
        before = own[..., image, :].clone()
        if edit.mode == ALIGNED:
            theirs = maps[source : source + 1][..., image, :]
            share = float(bool(edit.reaches))
            before = share * theirs + (1 - share) * maps[row : row + 1][..., image, :]
            before[..., text] = theirs[..., text] @ pair.inject
            before[..., text] += maps[row : row + 1][..., image, text] * pair.keep
        after = before.clone()
        after[..., text] *= pair.equalizer
        negative = bool((pair.equalizer < 0).any())
        if edit.renormalised or (edit.renormalised is None and not negative):
            after *= before.sum(-1, keepdim=True) / after.sum(-1, keepdim=True)
        out[row, image] = output_of(after, v[row : row + 1])[0]
    return out
