"""Attention processors that obey the edits of the call under way, and look where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from ...attention import CrossEdit, SelfEdit
from ...attention_maps import OwnAttention
from ...background import SourceValues
from ...calls import Look, sharpens
from ...unet import is_of_side


def cross_attention_sides(unet: Any) -> tuple[float, ...]:
    """List the cross-attention layers' sides as fractions of the latent's, largest first.

    Raises `ValueError` for a network that has none.
    """
    down = list(getattr(unet, "down_blocks", []))
    levels = [*enumerate(down), (len(down) - 1, getattr(unet, "mid_block", None))]
    sides = {0.5**level for level, block in levels if getattr(block, "has_cross_attention", False)}
    if not sides:
        raise ValueError(
            "Expected a model whose UNet has cross-attention (SD1.x, SD2.x, SDXL), got "
            f"{type(unet).__name__}. Prompt-to-Prompt edits the attention between image and text; "
            "load such a model."
        )
    return tuple(sorted(sides, reverse=True))


@dataclass
class Call:
    """What the network's attention does in the call under way."""

    cross: CrossEdit | None = None
    own: SelfEdit | None = None
    looks: Sequence[Look] = ()
    values: SourceValues | None = None
    latent: tuple[int, int] = (0, 0)
    """(height, width)"""
    latest: OwnAttention | None = None
    """Of the block under way, once its self-attention is over."""
    sides: tuple[float, ...] = field(default_factory=tuple[float, ...])

    def layer(self, pixels: int) -> tuple[int, int] | None:
        """Find the height and width of a layer of so many pixels; None if no text is seen there."""
        height, width = self.latent
        sizes = [(ceil(height * side), ceil(width * side)) for side in self.sides]
        return next((size for size in sizes if size[0] * size[1] == pixels), None)


class Processor:
    """An attention layer that asks a `Call` what to do, and is plain where that says nothing."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError(
                "Expected attention without a mask, got one. Leave out encoder_attention_mask."
            )

        attention = partial(plain_attention, attn.heads)
        call, text = self.call, encoder_hidden_states
        q, k, v = project_in(attn, hidden_states, text)
        if text is None:
            layer = call.layer(q.shape[1])
            if call.values is not None and layer is not None:
                v = call.values.within(v, layer)
            rows = None if call.own is None else call.own.gather(q.shape[1])
            if rows is not None:
                q, k = q.index_select(0, rows), k.index_select(0, rows)
            if sharpens(call.looks):
                call.latest = OwnAttention(attention, q, k, attn.heads)
            output = attention(q, k, v)
        else:
            layer = call.layer(q.shape[1])
            for look in call.looks:
                if layer is not None and is_of_side(look.maps.side, layer, call.latent):
                    edited = partial(call.cross.attend, attention) if call.cross else None
                    look.take(attention, edited, q, k, attn.heads, layer, own=call.latest)
            call.latest = None
            output = (call.cross.attend if call.cross else _plain)(attention, q, k, v)
        return project_out(attn, output)


def project_in(
    attn: Any, pixels: Tensor, text: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Project pixels to a layer's queries, and the text, if it has one, to its keys and values.

    All are float[rows positions channels]; without a text, the pixels are their own.
    """
    context = pixels if text is None else text
    return attn.to_q(pixels), attn.to_k(context), attn.to_v(context)


def project_out(attn: Any, output: Tensor) -> Tensor:
    """Project attention's output, float[rows pixels channels], to what the layer gives on."""
    project, dropout = attn.to_out
    return dropout(project(output))


def plain_attention(heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as diffusers' own layers do; all are float[rows positions channels]."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _plain(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v)


@contextmanager
def attached(unet: Any) -> Iterator[Call]:
    """Have the UNet's attention obey the call that is given out, while the context lasts.

    Raises `ValueError` for a UNet whose attention somebody else has replaced.
    """
    call = Call(sides=cross_attention_sides(unet))
    with replaced(unet, Processor(call)):
        yield call


@contextmanager
def replaced(unet: Any, processor: Any) -> Iterator[None]:
    """Have a processor, or one per layer's name, do the UNet's attention, while it lasts.

    Raises as `attached` does.
    """
    before = unet.attn_processors
    others = {
        type(one).__name__
        for one in before.values()
        if type(one) not in (AttnProcessor, AttnProcessor2_0)
    }
    if others:
        raise ValueError(
            f"Expected a UNet with diffusers' own attention, got {', '.join(sorted(others))}. "
            "Take off what replaced it (IP-Adapter, xFormers, attention slicing): "
            "unet.set_default_attn_processor()."
        )
    unet.set_attn_processor(processor)
    try:
        yield
    finally:
        unet.set_attn_processor(before)
