"""Transformers whose image looks at its text in an attention of its own: the paper's algebra.

As in a UNet, but that all layers have one size; so windows over blocks take the place of reaches.
The host's attention is overridden in one place, as for joint attention (see `transformer`): a call
whose keys are as many as the text's tokens is a cross-attention, one whose keys are its queries a
self-attention, and each block makes one of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ....attention import CrossEdit, RowEdit, SelfEdit
from ....attention_maps import OwnAttention
from ....background import SourceValues
from ....calls import CallEdits, Look, sharpens
from ....edits import SHARED
from .blocks import COUNT_KEY, Count, block_number, check_came, with_source_vectors
from .masks import by_row, without_padding
from .override import OVERRIDE, Call, overriding


@dataclass(frozen=True)
class Kind:
    """A family: how the host's network of this class is built.

    `blocks` is its list of blocks; `patch` says how many frames, rows and columns of the latent are
    one token; so many `refiners` look at the text alone first; `pooled` says whether the network
    also gets a vector of the whole prompt, which acts on every pixel.
    """

    name: str
    patch: Callable[[Any], Sequence[int]]
    blocks: str = "blocks"
    refiners: Callable[[Any], int] = lambda network: 0
    pooled: bool = False


def _cosmos(network: Any) -> Sequence[int]:
    return network.patch_temporal, network.patch_spatial, network.patch_spatial


KINDS: dict[str, Kind] = {
    "WanModel": Kind("Wan", lambda network: network.patch_size),
    "MiniTrainDIT": Kind("Cosmos-Predict2", _cosmos),
    "Anima": Kind("Anima", _cosmos),
    "LTXVModel": Kind(
        "LTX-Video", lambda network: network.patchifier.patch_size, "transformer_blocks"
    ),
    "Kandinsky5": Kind(
        "Kandinsky 5",
        lambda network: network.patch_size,
        "visual_transformer_blocks",
        refiners=lambda network: len(network.text_transformer_blocks),
        pooled=True,
    ),
}
"""By the name of the host's class."""

EVERYWHERE = float("inf")
"""Size of a layer that is too much for self-attention to be injected: none is."""


@dataclass(frozen=True)
class Prepared:
    """What the edits of one call are made of: of every block, its cross- and self-attention's."""

    blocks: tuple[tuple[CrossEdit | None, SelfEdit | None], ...]
    vectors: dict[int, int] = field(hash=False)
    """Rows whose vector of the whole prompt is the source's now, and the source's row."""
    padded: dict[int, int] = field(hash=False)
    """Rows whose text ends before the call's, and how many tokens it has."""


@dataclass(frozen=True)
class CrossTransformer:
    """A network of one of `KINDS`."""

    kind: Kind
    kinds: tuple[str, ...]
    patch: tuple[int, ...]
    """Frames, rows and columns of the latent that are one token."""
    refiners: int

    @classmethod
    def of(cls, model: Any) -> CrossTransformer | None:
        """Recognise a model's network; None for one of another kind."""
        network = model.model.diffusion_model
        kind = KINDS.get(type(network).__name__)
        if kind is None:
            return None
        kinds = ("block",) * len(getattr(network, kind.blocks))
        return cls(kind, kinds, tuple(kind.patch(network)), kind.refiners(network))

    @property
    def sides(self) -> tuple[float, ...]:
        return (1 / self.patch[-1],)

    def prepared(self, edits: CallEdits, latent: Tensor) -> Prepared | None:
        """Make what a call's edits are made of, see `Family`.

        Raises `ValueError` for edits that share structure, which is joint attention's.
        """
        rows, device = latent.shape[0], latent.device
        vectors: dict[int, int] = {}

        def made(found: list[RowEdit]) -> tuple[CrossEdit | None, SelfEdit | None]:
            if any(one.mode == SHARED for one in found):
                raise ValueError(
                    f"Expected edits of {self.kind.name}, whose text has a softmax of its own, got "
                    "one for joint attention. Set attention to automatic."
                )
            vectors.update((one.row, one.source) for one in found if one.source_vector)
            injected = [(one.row, one.source, EVERYWHERE) for one in found if one.reaches]
            return CrossEdit.of(found, rows, device), SelfEdit.of(injected, rows, device)

        blocks, padded = edits.of_each_block(self.kinds, made), edits.padded()
        found = padded or any(one is not None for block in blocks for one in block)
        return Prepared(blocks, vectors, padded) if found else None

    def conditions(self, prepared: Prepared | None, given: dict[str, Any]) -> dict[str, Any]:
        """Edit the prompt's vector, see `Family`."""
        if prepared is None or not self.kind.pooled:
            return given
        return with_source_vectors(given, prepared.vectors)

    def check(self, options: dict[str, Any]) -> None:
        """Raise `ValueError` if a call that is over had none of its attention here."""
        check_came(options, self.kind.name)

    def edited(
        self,
        options: dict[str, Any],
        prepared: Prepared | None,
        looks: Sequence[Look],
        values: SourceValues | None,
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """Make transformer_options of one call with its edits and looks in them, see `Family`."""
        count = Count()
        patch = self.patch[-len(latent[2:]) :]
        sizes = [ceil(side / one) for side, one in zip(latent[2:], patch, strict=True)]
        pixels, grid = prod(sizes), (prod(sizes[:-1]), sizes[-1])
        padded = prepared.padded if prepared is not None else {}

        latest: list[OwnAttention] = []  # of the block under way

        def hidden(call: Call) -> Tensor | None:
            return without_padding(call.mask, padded, 0, tokens, call.k) if padded else call.mask

        def handle(call: Call) -> Tensor:
            asked, keys = call.q.shape[-2], call.k.shape[-2]
            if call.rows != latent[0]:
                return call.given()
            if asked == keys == tokens and count.refined < self.refiners:
                count.refined += 1
                return replace(call, mask=hidden(call)).given()
            if keys == pixels and not (count.crossing and keys == tokens):
                if not count.crossing:  # else some more of the same queries
                    block_number(count, call.options, {})
                count.crossing = True
                edit = prepared.blocks[count.came - 1][1] if prepared is not None else None
                rows = None if edit is None else edit.gather(pixels)
                if rows is not None:
                    q, k = (x.index_select(0, rows) for x in (call.q, call.k))
                    call = replace(call, q=q, k=k)
                if values is not None:
                    call = replace(call, v=values.within(call.v, sizes))
                if sharpens(looks):
                    latest[:] = [OwnAttention(call.attend, call.q, call.k, call.heads)]
                return call.given()
            if keys != tokens or asked != pixels or not count.crossing:
                return call.given()
            count.crossing = False
            call = replace(call, mask=hidden(call))
            edit = prepared.blocks[count.came - 1][0] if prepared is not None else None
            if edit is None and not looks:
                return call.given()
            call = call.joined()
            mask = by_row(call.mask, call.rows)
            edited = partial(call.attend, mask=mask)
            if edit is not None:
                edited = partial(edit.attend, call.attend, mask=mask)
            own = next(iter(latest), None)
            for look in looks:
                under = None if edit is None and mask is None else edited
                look.take(call.attend, under, call.q, call.k, call.heads, grid, own=own)
            latest.clear()
            return call.returned(edited(call.q, call.k, call.v))

        return {**options, OVERRIDE: overriding(options, handle), COUNT_KEY: count}
