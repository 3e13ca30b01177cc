"""A UNet's attention (SD1.x, SD2.x, SDXL): which layers there are, and how they are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample
from torch import Tensor

from ....attention import Attend, CrossEdit, SelfEdit
from ....background import SourceValues
from ....calls import CallEdits, Look, sharpens
from ....edits import AUTOMATIC
from ....unet import is_of_side, joined
from .refusing import refusal
from .self_attention import CROSS_MARK, Latest, install, watch

Block = tuple[str, int, int]
"""A transformer block as the host's attention replacements name it: part, number, depth."""

Replacement = Callable[..., Tensor]
"""The host's attention replacement: (q, k, v, extra options) → the layer's output."""


def cross_attention_blocks(model: Any) -> list[Block]:
    """Names of a UNet's transformer blocks, as the host's attention replacements name them.

    Raises `ValueError` for a network that has none.
    """
    network = model.model.diffusion_model
    parts = (("input", "input_blocks"), ("middle", "middle_block"), ("output", "output_blocks"))
    blocks: list[Block] = []
    for name, attribute in parts:
        modules = getattr(network, attribute, None) or []
        for number, module in enumerate([modules] if name == "middle" else modules):
            for layer in module:
                if isinstance(layer, SpatialTransformer):
                    blocks += [
                        (name, number, depth) for depth in range(len(layer.transformer_blocks))
                    ]
    if not blocks:
        raise refusal(network)
    return blocks


def cross_attention_sides(model: Any) -> tuple[float, ...]:
    """Sides of a UNet's cross-attention layers as fractions of the latent's side, largest first.

    Raises `ValueError`, see `cross_attention_blocks`.
    """
    cross_attention_blocks(model)
    side, sides = 1.0, set[float]()
    for module in model.model.diffusion_model.input_blocks:
        side /= 2 if any(isinstance(layer, Downsample) for layer in module) else 1
        if any(isinstance(layer, SpatialTransformer) for layer in module):
            sides.add(side)
    if any(
        isinstance(layer, SpatialTransformer) for layer in model.model.diffusion_model.middle_block
    ):
        sides.add(side)
    return tuple(sorted(sides, reverse=True))


@dataclass(frozen=True)
class UNet:
    """A network whose image looks at its text in layers of their own."""

    blocks: tuple[Block, ...]
    sides: tuple[float, ...]
    """Of its cross-attention layers, as fractions of the latent's side, largest first."""

    @classmethod
    def of(cls, model: Any) -> UNet:
        """Raises `ValueError`, see `cross_attention_blocks`."""
        return cls(tuple(cross_attention_blocks(model)), cross_attention_sides(model))

    def prepared(
        self, edits: CallEdits, latent: Tensor
    ) -> tuple[CrossEdit | None, SelfEdit | None] | None:
        """Prepare what a call's edits are made of, see `Family`.

        Raises `ValueError` for settings of joint attention, which a UNet has none of.
        """
        rows = edits.rows()
        modes = {row.mode for row in rows} - {AUTOMATIC}
        if modes:
            raise ValueError(
                "Expected edits of a UNet, whose text has a softmax of its own, got one for joint "
                f"attention ({', '.join(modes)}). Set attention to {AUTOMATIC}."
            )
        made = joined(rows, latent.shape[0], latent.shape[-2:], latent.device)
        return made if any(one is not None for one in made) else None

    def edited(
        self,
        options: dict[str, Any],
        prepared: tuple[CrossEdit | None, SelfEdit | None] | None,
        looks: Sequence[Look],
        values: SourceValues | None,
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """transformer_options of one call with its edits and looks in them, see `Family`."""
        cross, own = prepared or (None, None)
        latest = Latest() if sharpens(looks) else None
        options = _replace_attn2(
            options,
            self.blocks,
            lambda theirs: _cross_attention(cross, looks, latest, latent, tokens, theirs),
        )
        if latest is not None:
            watch(latest, latent[0], options)
        if own is not None or values is not None:
            install(own, values, latent[0], options)
        return options

    def conditions(self, prepared: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Leave what else the network gets as the host has it, see `Family`."""
        return given

    def check(self, options: dict[str, Any]) -> None:
        """Check nothing: a UNet's blocks are replaced one by one, none can be gone past."""


def _replace_attn2(
    options: dict[str, Any],
    blocks: Sequence[Block],
    make: Callable[[Replacement | None], Replacement],
) -> dict[str, Any]:
    """A copy of transformer_options with every block's cross-attention replaced.

    `make` gets what already replaces the block's attention, by its full name or by its part and
    number, or None.
    """
    replace = {**options.get("patches_replace", {})}
    theirs = replace.get("attn2", {})
    ours = {block: make(theirs.get(block, theirs.get(block[:2]))) for block in blocks}
    return {**options, "patches_replace": {**replace, "attn2": theirs | ours}}


def _cross_attention(
    cross: CrossEdit | None,
    looks: Sequence[Look],
    latest: Latest | None,
    latent: torch.Size,
    tokens: int,
    theirs: Replacement | None,
) -> Replacement:
    """attn2 replacement: the edit, on top of another extension's replacement if there is one.

    It raises `ValueError` where something changed which tokens there are.
    """

    def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        if v.shape[:2] != (latent[0], tokens):
            raise ValueError(
                f"Expected cross-attention of {latent[0]} rows over {tokens} text tokens each, got "
                f"{v.shape[0]} over {v.shape[1]}. Another extension's attention patch changes "
                "which tokens there are: take it off this model."
            )
        extra = {**extra, CROSS_MARK: True}
        attention = _host_attention(extra)
        layer = tuple(extra["activations_shape"][-2:]) if looks else ()
        own = latest.take(attention, q.shape[1], extra["n_heads"]) if latest is not None else None
        for look in looks:
            if is_of_side(look.maps.side, layer, latent[-2:]):
                edited = None if cross is None else partial(cross.attend, attention)
                look.take(attention, edited, q, k, extra["n_heads"], layer, own=own)
        if theirs is None:
            return attention(q, k, v) if cross is None else cross.attend(attention, q, k, v)
        output = theirs(q, k, v, extra)
        return output if cross is None else cross.adjust(output, attention, q, k, v)

    return attn2


def _host_attention(extra: dict[str, Any]) -> Attend:
    """The host's attention with a layer's own settings, as the layer would call it."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(
            q,
            k,
            v,
            heads=extra["n_heads"],
            attn_precision=extra.get("attn_precision"),  # not all who call this pass it
            transformer_options=extra,
        )

    return attention
