"""Edits planned from words, and what they make of random queries, keys and values."""

from __future__ import annotations

import torch
from oracle import attention, explicit_maps
from text_tokenizers import reader

from p2p_core.attention import CrossEdit, RowEdit
from p2p_core.controller import plan

SOURCE = "a fluffy cat sits on the wet grass"
PIXELS, CHANNELS = 9, 8


def edited_outputs(chains, progress, text=SOURCE, read=None):
    """(ours, maps, v, controller): the edited rows' output, and what an oracle needs."""
    controller = plan(text, chains, read or reader())
    rows, tokens = 1 + len(chains), controller.length
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(rows, PIXELS, CHANNELS, generator=generator, dtype=torch.float64)
    k, v = (
        torch.randn(rows, tokens, CHANNELS, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    moments = controller.at(progress, tokens, torch.float64)
    edits = [RowEdit(n + 1, 0, moment.map_edit) for n, moment in enumerate(moments)]
    cross = CrossEdit.of(edits, rows, torch.device("cpu"))
    ours = attention(q, k, v) if cross is None else cross.attend(attention, q, k, v)
    return ours[1:], explicit_maps(q, k), v, controller


def agrees(ours, expected):
    assert (ours - expected).abs().max() <= 1e-10 * expected.abs().max()


def tokens(controller, phrase, branch=0):
    return controller.branches[branch].edited.tokens_of(phrase)


def source_column(controller, phrase):
    return controller.source.tokens_of(phrase)
