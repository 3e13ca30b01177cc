"""Text as a network sees it, where that is more or other than what its text encoder gives.

Anima's network makes its text itself of two tokenizers' tokens, of one prompt at a time: what its
encoder gave stays apart, prompt by prompt, until the network is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.conds
import torch
import torch.nn.functional as F
from torch import Tensor

from ...controller import Rows
from .guarding import MODEL_CONDS

IDS_KEY, WEIGHTS_KEY = "t5xxl_ids", "t5xxl_weights"
"""The host's own, beside Anima's hidden states: the tokens that its text will have, and weights."""

MASK_KEY = "attention_mask"
"""The host's own: 1 where an encoder's token is one of the text, [rows tokens]."""

LLAMA_KEY = "conditioning_llama3"
"""The host's own, beside HiDream's text: another encoder's, [rows layers tokens channels]."""

GLYPHS_KEY = "conditioning_byt5small"
"""The host's own, beside HunyuanImage's text: what stands in quotation marks, letter by letter."""

PROMPT_KEYS = ("pooled_output", MASK_KEY, LLAMA_KEY, GLYPHS_KEY)
"""The host's own: what a text encoder says of a prompt beside its text, one row per prompt."""

ENTRIES_KEY = "p2p_entries"
"""Marks conditioning whose text is still to be made: the encoder's entries, one per prompt."""

FILLED = 512
"""Tokens that Anima's network fills shorter texts up to."""

FILLED_IN_FRONT = {"mistral3_24b": 512}
"""Tokens that a network fills shorter texts up to in front, by its encoder's tokenizer: Flux.2."""


def text_length(cond: Tensor, extra: dict[str, Any]) -> int:
    """Count the text tokens per row that the network will have of a conditioning's entry."""
    if IDS_KEY in extra:
        return max(FILLED, len(extra[IDS_KEY]))
    return cond.shape[1] + _beside(extra.get(LLAMA_KEY))


def tokens_of_call(texts: Tensor, given: dict[str, Any]) -> int:
    """Count the text tokens per row of a call of the network, of all that it is given."""
    return texts.shape[1] + _beside(given.get("encoder_hidden_states_llama3"))


def _beside(llama: Tensor | None) -> int:
    """Count tokens of HiDream's other encoder, of which each block has two layers: last and own."""
    return 0 if llama is None else 2 * llama.shape[-2]


def filled_in_front(entry: list[Any], length: int) -> list[Any]:
    """Fill an entry's text up in front, as its network would, with what its mask hides."""
    cond, extra = entry
    missing = length - cond.shape[1]
    if missing <= 0:
        return entry
    if MASK_KEY in extra:
        extra = {**extra, MASK_KEY: F.pad(extra[MASK_KEY], (missing, 0))}
    return [F.pad(cond, (0, 0, missing, 0)), extra]


def kept_apart(entries: Sequence[Sequence[Any]], length: int) -> list[Any] | None:
    """Make one entry of one per prompt whose text is still to be made; None for any other.

    Until then it has zeros in the place of its text, float[prompts length channels].
    """
    (cond, extra), *_ = entries
    if IDS_KEY not in extra:
        return None
    rest = {key: value for key, value in extra.items() if key not in (IDS_KEY, WEIGHTS_KEY)}
    rest[ENTRIES_KEY] = tuple(entries)
    return [cond.new_zeros(len(entries), length, cond.shape[-1]), rest]


def source_entry(extra: dict[str, Any]) -> list[Any] | None:
    """Find the source prompt's own entry of one made by `kept_apart`; None of another."""
    return list(extra[ENTRIES_KEY][0]) if ENTRIES_KEY in extra else None


@torch.no_grad()
def make_text(
    conditioning: dict[str, Any], model: Any, rows: Rows | None, device: torch.device
) -> None:
    """Give a conditioning made by `kept_apart`, as samplers have it, its text; others are left.

    `model` is the host's, loaded; without `rows` it is sampled with the source prompt alone.
    """
    if ENTRIES_KEY not in conditioning:
        return
    length = conditioning["cross_attn"].shape[1]
    entries = conditioning[ENTRIES_KEY] if rows is not None else conditioning[ENTRIES_KEY][:1]
    dtype = model.get_dtype_inference()
    made: list[Tensor] = []
    for cond, extra in entries:
        ids = extra[IDS_KEY][None].to(device)
        weights = extra[WEIGHTS_KEY][None, :, None].to(device, dtype)
        text = model.diffusion_model.preprocess_text_embeds(cond.to(device, dtype), ids, weights)
        made.append(F.pad(text, (0, 0, 0, length - text.shape[1])))
    text = torch.cat(made)
    text = text if rows is None else rows.of_prompts(text)
    conds = {**conditioning[MODEL_CONDS], "c_crossattn": comfy.conds.CONDRegular(text)}
    conditioning[MODEL_CONDS] = conds
