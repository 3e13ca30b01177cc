"""One call of the network: which of its rows are edited, and which are looked at.

Hosts know which rows of a batch belong to which prompts; from there on it is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import Attend, RowEdit
from .attention_maps import WordMaps, word_maps
from .controller import Controller, Rows


def row_edits(
    controller: Controller,
    rows: Rows,
    start: int,
    progress: float,
    tokens: int,
    block: int = 0,
    kinds: Sequence[str] = ("block",),
) -> Iterator[RowEdit]:
    """Every edited row of a call where `rows` begin at `start`, in a block as `Controller.at` has.

    Texts have `tokens` tokens. Raises `ValueError` as `Controller.at` does.
    """
    for branch, now in enumerate(controller.at(progress, tokens, block=block, kinds=kinds)):
        for row, source in rows.pairs(branch):
            yield RowEdit(
                start + row,
                start + source,
                now.map_edit,
                now.self_reaches,
                now.mode,
                now.renormalised,
            )


@dataclass(frozen=True)
class Look:
    """Word maps wanted of rows `start:stop` of one call of the network."""

    maps: WordMaps
    start: int
    stop: int
    progress: float

    def take(
        self,
        attention: Attend,
        edited: Callable[[Tensor, Tensor, Tensor], Tensor] | None,
        q: Tensor,
        k: Tensor,
        heads: int,
        grid: Sequence[int],
    ) -> None:
        """Add a layer's word maps, those of edited rows under their edit.

        `edited` is the layer's attention with the edit of all the call's rows, where there is one.
        The layer's pixels form a `grid` of (height, width).
        """
        rows = slice(self.start, self.stop)
        if edited is None:
            seen = word_maps(attention, q[rows], k[rows], self.maps.columns, heads)
        else:
            columns = self.maps.columns.new_zeros(q.shape[0], *self.maps.columns.shape[1:])
            columns[rows] = self.maps.columns
            seen = word_maps(edited, q, k, columns, heads)[rows]
        self.maps.add(seen, grid[0], grid[1], self.progress)
