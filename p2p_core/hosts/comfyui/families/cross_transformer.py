"""Transformers whose image looks at its text in an attention of its own: the paper's algebra.

As in a UNet, but that all layers have one size; so windows over blocks take the place of reaches.
The host's attention is overridden in one place, as for joint attention (see `transformer`): a call
whose keys are as many as the text's tokens is a cross-attention, one whose keys are its queries a
self-attention, and each block makes one of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ....attention import CrossEdit, SelfEdit
from ....calls import CallEdits, Look
from ....edits import SHARED
from .override import OVERRIDE, Call, overriding
from .transformer import COUNT_KEY, Count, block_number, check_came

KINDS: dict[str, str] = {
    "WanModel": "Wan",
    "MiniTrainDIT": "Cosmos-Predict2",
    "Anima": "Anima",
}
"""What the host's classes are called; their blocks are in `blocks`."""

EVERYWHERE = float("inf")
"""Size of a layer that is too much for self-attention to be injected: none is."""


@dataclass(frozen=True)
class Prepared:
    """What the edits of one call are made of: of every block, its cross- and self-attention's."""

    blocks: tuple[tuple[CrossEdit | None, SelfEdit | None], ...]


@dataclass(frozen=True)
class CrossTransformer:
    """A network of one of `KINDS`."""

    name: str
    kinds: tuple[str, ...]
    patch: tuple[int, int, int]
    """Frames, rows and columns of the latent that are one token."""

    @classmethod
    def of(cls, model: Any) -> CrossTransformer | None:
        """Recognise a model's network; None for one of another kind."""
        network = model.model.diffusion_model
        name = KINDS.get(type(network).__name__)
        if name is None:
            return None
        patch = getattr(network, "patch_size", None)
        if patch is None:
            patch = (network.patch_temporal, network.patch_spatial, network.patch_spatial)
        return cls(name, ("block",) * len(network.blocks), tuple(patch))

    @property
    def sides(self) -> tuple[float, ...]:
        return (1 / self.patch[-1],)

    def prepared(self, edits: CallEdits, latent: Tensor) -> Prepared | None:
        """Make what a call's edits are made of, see `Family`.

        Raises `ValueError` for edits that share structure, which is joint attention's, and for
        prompts of different lengths.
        """
        if edits.padded():
            raise ValueError(
                f"Expected prompts of equally many tokens for {self.name}, got others. Use a text "
                "encoder that fills up to a length, as this model's own does."
            )
        alike: dict[Any, tuple[CrossEdit | None, SelfEdit | None]] = {}
        blocks: list[tuple[CrossEdit | None, SelfEdit | None]] = []
        for block in range(len(self.kinds)):
            covered = edits.covered(block, self.kinds)
            if covered not in alike:
                rows = edits.rows(block, self.kinds)
                if any(row.mode == SHARED or row.renormalised for row in rows):
                    raise ValueError(
                        f"Expected edits of {self.name}, whose text has a softmax of its own, got "
                        "one for joint attention. Set attention to automatic."
                    )
                injected = [(row.row, row.source, EVERYWHERE) for row in rows if row.reaches]
                alike[covered] = (
                    CrossEdit.of(rows, latent.shape[0], latent.device),
                    SelfEdit.of(injected, latent.shape[0], latent.device),
                )
            blocks.append(alike[covered])
        found = any(one is not None for block in blocks for one in block)
        return Prepared(tuple(blocks)) if found else None

    def conditions(self, prepared: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Leave what else the network gets as the host has it, see `Family`."""
        return given

    def check(self, options: dict[str, Any]) -> None:
        """Raise `ValueError` if a call that is over had none of its attention here."""
        check_came(options, self.name)

    def edited(
        self,
        options: dict[str, Any],
        prepared: Prepared | None,
        looks: Sequence[Look],
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """Make transformer_options of one call with its edits and looks in them, see `Family`."""
        count = Count()
        sizes = [ceil(side / patch) for side, patch in zip(latent[2:], self.patch, strict=True)]
        pixels, grid = prod(sizes), (sizes[0] * sizes[1], sizes[2])

        def handle(call: Call) -> Tensor:
            asked = call.rows == latent[0] and call.q.shape[-2] == pixels
            keys = call.k.shape[-2] if asked else -1
            if keys == pixels and not count.crossing:
                count.crossing = True
                block = block_number(count, call.options, {})
                edit = prepared.blocks[block][1] if prepared is not None else None
                rows = None if edit is None else edit.gather(pixels)
                if rows is not None:
                    q, k = (x.index_select(0, rows) for x in (call.q, call.k))
                    call = replace(call, q=q, k=k)
                return call.given()
            if keys != tokens or not count.crossing:
                return call.given()
            count.crossing = False
            edit = prepared.blocks[count.came - 1][0] if prepared is not None else None
            if edit is None and not looks:
                return call.given()
            call = call.joined()
            attend = partial(call.attend, mask=call.mask)
            edited = attend if edit is None else partial(edit.attend, attend)
            for look in looks:
                under = None if edit is None else edited
                look.take(attend, under, call.q, call.k, call.heads, grid)
            return call.returned(edited(call.q, call.k, call.v))

        return {**options, OVERRIDE: overriding(options, handle), COUNT_KEY: count}
