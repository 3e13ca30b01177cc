"""One call of the network: which of its rows are edited, and which are looked at.

Hosts know which rows of a batch belong to which prompts; from there on it is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from .attention import Attend, RowEdit
from .attention_maps import OwnAttention, WordMaps, word_maps
from .blocks import UNDIVIDED
from .controller import Controller, Rows

Made = TypeVar("Made")
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Held:
    """Which rows of one call go through the network: those of each of its conditionings.

    >>> held = Held((Rows(1, 1), Rows(1, 1, known=True)))  # a positive and a negative prompt
    >>> call = torch.tensor([[1], [2], [3], [4]])
    >>> held.cut(call).flatten(), held.blocks(["positive", "negative"])
    (tensor([1, 2, 4]), ['positive', 'positive', 'negative'])
    >>> held.filled(torch.tensor([[10], [20], [40]]), torch.tensor([[7]])).flatten()
    tensor([ 7, 20,  7, 40])
    """

    rows: tuple[Rows, ...]
    """Of each conditioning, in the call's order."""

    @classmethod
    def needed(cls, rows: Rows, needs: Sequence[bool]) -> Held:
        """Choose the rows of a call of known sources: theirs where a conditioning needs them."""
        known = replace(rows, known=True)
        return cls(tuple(rows if need else known for need in needs))

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The rows of each conditioning in what goes through the network: (first, beyond last)."""
        ends = [*accumulate((rows.total for rows in self.rows), initial=0)]
        return tuple(pairwise(ends))

    def cut(self, values: Tensor) -> Tensor:
        """Cut what goes through the network out of a whole call's rows."""
        chunks = values.chunk(len(self.rows))
        return torch.cat([rows.held(own) for rows, own in zip(self.rows, chunks, strict=True)])

    def filled(self, values: Tensor, sources: Tensor) -> Tensor:
        """Make rows of a whole call of what the network gave, [rows …], and what `sources` are.

        Sources whose rows went through the network for their attention alone are so, too.
        """
        return torch.cat(
            [
                part
                for rows, (start, stop) in zip(self.rows, self.spans, strict=True)
                for part in (sources, values[start + rows.source_block.stop : stop])
            ]
        )

    def blocks(self, each: Sequence[Kept]) -> list[Kept]:
        """Repeat what there is one of for each conditioning for each block of its rows."""
        pairs = zip(self.rows, each, strict=True)
        return [one for rows, one in pairs for _ in range(rows.prompts)]


@dataclass(frozen=True)
class CallEdits:
    """What is edited in one call of the network: controllers, and at which row their rows begin.

    Texts have `tokens` tokens.
    """

    parts: tuple[tuple[Controller, Rows, int], ...]
    progress: float
    tokens: int

    def padded(self) -> dict[int, int]:
        """Find rows whose text ends before the call's, and how many tokens it has."""
        return {
            start + row: prompt.length
            for controller, rows, start in self.parts
            if not controller.repeats
            for block, prompt in zip(rows.blocks, controller.prompts, strict=rows.edits > 0)
            for row in range(rows.total)[block]
            if prompt.length < self.tokens
        }

    def covered(self, block: int, kinds: Sequence[str]) -> Hashable:
        """Tell which edits act in a block; where as many do, rows are the same."""
        return tuple(controller.covered(block, kinds) for controller, _, _ in self.parts)

    def rows(self, block: int = 0, kinds: Sequence[str] = UNDIVIDED) -> list[RowEdit]:
        """Make every edited row, in a block; raises `ValueError` as `Controller.at` does."""
        return [
            RowEdit(
                start + row,
                start + source,
                now.map_edit,
                now.self_reaches,
                now.mode,
                now.renormalised,
                now.source_vector,
            )
            for controller, rows, start in self.parts
            for branch, now in enumerate(
                controller.at(self.progress, self.tokens, block=block, kinds=kinds)
            )
            for row, source in rows.pairs(branch)
        ]

    def of_each_block(
        self, kinds: Sequence[str], make: Callable[[list[RowEdit]], Made]
    ) -> tuple[Made, ...]:
        """Make something of the edited rows of every block, once for blocks that are edited alike.

        `kinds` are all blocks of a transformer in order. Raises `ValueError` as `rows` does.
        """
        alike: dict[Hashable, Made] = {}
        made: list[Made] = []
        for block in range(len(kinds)):
            covered = self.covered(block, kinds)
            if covered not in alike:
                alike[covered] = make(self.rows(block, kinds))
            made.append(alike[covered])
        return tuple(made)


def with_sources(vectors: Tensor, sources: Mapping[int, int]) -> Tensor:
    """Give rows their source's vector of a whole prompt: {row: its source row}.

    Vectors are [rows channels].

    >>> with_sources(torch.tensor([[1], [2], [3]]), {2: 0}).flatten()
    tensor([1, 2, 1])
    """
    rows = torch.arange(vectors.shape[0], device=vectors.device)
    for row, source in sources.items():
        rows[row] = source
    return vectors.index_select(0, rows)


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
        text: slice | None = None,
        own: OwnAttention | None = None,
    ) -> None:
        """Add a layer's word maps, those of edited rows under their edit.

        `edited` is the layer's attention with the edit of all the call's rows, where there is one.
        The layer's pixels form a `grid` of (height, width). `text` says where the text stands among
        the keys, if there are others; `own` is the layer's self-attention. Raises `ValueError`
        where maps are to be sharpened by that and none of it was seen.
        """
        rows = slice(self.start, self.stop)
        if edited is None:
            seen = word_maps(attention, q[rows], k[rows], self.maps.columns, heads)
        else:
            looks, length = self.maps.columns.shape[1], k.shape[-2]
            columns = self.maps.columns.new_zeros(q.shape[0], looks, length)
            columns[rows, :, text or slice(None)] = self.maps.columns
            seen = word_maps(edited, q, k, columns, heads)[rows]
        if self.maps.sharpen:
            if own is None:
                raise ValueError(
                    "Expected the model's own self-attention to sharpen maps by, got none: another "
                    "extension is at it. Set sharpen to 0, or take that off the model."
                )
            seen = own.sharpened(seen, rows, self.maps.sharpen)
        self.maps.add(seen, grid[0], grid[1], self.progress)


def sharpens(looks: Sequence[Look]) -> bool:
    """Tell whether maps are sharpened, for which alone a layer's self-attention is kept."""
    return any(look.maps.sharpen for look in looks)
