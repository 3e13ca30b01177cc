"""One call of the network: which of its rows are edited, and which are looked at.

Hosts know which rows of a batch belong to which prompts; from there on it is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor

from .attention import Attend, CrossEdit, RowEdit, SelfEdit
from .attention_maps import WordMaps, word_maps
from .controller import Controller, Rows
from .edits import Reach


def row_edits(
    controller: Controller, rows: Rows, start: int, progress: float, tokens: int
) -> Iterator[tuple[RowEdit, frozenset[Reach]]]:
    """Every edited row with its self-attention reaches, of a call where `rows` begin at `start`.

    Texts have `tokens` tokens. Raises `ValueError` as `Controller.at` does.
    """
    for branch, moment in enumerate(controller.at(progress, tokens)):
        for row, source in rows.pairs(branch):
            yield RowEdit(start + row, start + source, moment.map_edit), moment.self_reaches


def joined(
    edits: Sequence[tuple[RowEdit, frozenset[Reach]]],
    rows: int,
    size: torch.Size,
    device: torch.device,
) -> tuple[CrossEdit | None, SelfEdit | None]:
    """The edits of a call of `rows` rows and latents of `size` (height, width)."""
    injected = [(edit.row, edit.source, reach) for edit, reaches in edits for reach in reaches]
    return (
        CrossEdit.of([edit for edit, _ in edits], rows, device),
        SelfEdit.of(injected, rows, size[0] * size[1], device),
    )


@dataclass(frozen=True)
class Look:
    """Word maps wanted of rows `start:stop` of one call of the network."""

    maps: WordMaps
    start: int
    stop: int
    progress: float

    def sees(self, layer: Sequence[int], latent: Sequence[int]) -> bool:
        """Whether a layer of this (height, width) is one to look at."""
        return list(layer) == [ceil(side * self.maps.side) for side in latent]

    def take(
        self,
        cross: CrossEdit | None,
        attention: Attend,
        q: Tensor,
        k: Tensor,
        heads: int,
        layer: Sequence[int],
    ) -> None:
        """Add a layer's word maps, those of edited rows under their edit."""
        rows = slice(self.start, self.stop)
        if cross is None:
            seen = word_maps(attention, q[rows], k[rows], self.maps.columns, heads)
        else:
            columns = self.maps.columns.new_zeros(q.shape[0], *self.maps.columns.shape[1:])
            columns[rows] = self.maps.columns
            edited = partial(cross.attend, attention)
            seen = word_maps(edited, q, k, columns, heads)[rows]
        self.maps.add(seen, layer[0], layer[1], self.progress)
