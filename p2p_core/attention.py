"""Editing attention on the value side: no attention map is ever stored.

M̂ V = (M_src · inject + M_edit · diag(keep)) V = attention(Q_src, K_src, inject V) +
attention(Q_edit, K_edit, keep ⊙ V), two ordinary attention calls, on any backend and at any
resolution. Paper section 3.2, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .edits import AUTOMATIC, MapEdit, Reach

Attend = Callable[..., Tensor]
"""A function that computes attention.

attention(q[rows pixels channels], k[rows tokens channels], v[rows tokens channels])
→ [rows pixels channels]; where the layer has a mask, it is given it as well, [rows 1 1 tokens].
"""


@dataclass(frozen=True)
class RowEdit:
    """In one call of the network, `row` is edited by `map_edit` after row `source`."""

    row: int
    source: int
    map_edit: MapEdit
    reaches: frozenset[Reach] = frozenset()
    """Where self-attention is injected, see `edits.SelfInjection`; none: nowhere."""
    mode: str = AUTOMATIC
    renormalised: bool | None = None
    """Whether factors leave a pixel's sum as it was, see `edits.Reweight`."""
    source_vector: bool = False


@dataclass(frozen=True)
class CrossEdit:
    """All edits of one call of the network, ready for every cross-attention layer of it.

    An edited row that holds every token has the source's attention and its own values:

    >>> from torch.nn.functional import scaled_dot_product_attention as attention
    >>> q, k, v = (torch.randn(2, n, 8, dtype=torch.float64) for n in (9, 5, 5))
    >>> edit = MapEdit.untouched(5, 5).holding(torch.eye(5), torch.ones(5))
    >>> cross = CrossEdit.of([RowEdit(row=1, source=0, map_edit=edit)], 2, torch.device("cpu"))
    >>> source, edited = cross.attend(attention, q, k, v)
    >>> torch.allclose(edited, attention(q[0], k[0], v[1]))
    True
    """

    rows: Tensor
    """int64[edited]: the rows that are edited."""
    gather: Tensor
    """int64[rows]: the row whose queries and keys each row's first attention call uses.

    A row that is not edited uses its own.
    """
    inject: tuple[tuple[Tensor, Tensor], ...]
    """(rows, matrix[source_tokens edited_tokens]): edited rows that share a matrix."""
    keep: Tensor
    """float[edited tokens 1]: the factor on each edited row's own attention."""
    keeping: Tensor
    """int64[some]: which of `rows` keep any of their own attention."""
    renormalised: Tensor
    """int64[some]: rows that are brought back to what they summed to without factors."""
    sums: tuple[tuple[Tensor, Tensor], ...]
    """(int64[some], float[2 some tokens 1]): rows and weights that sum to that, and factored."""

    @classmethod
    def of(cls, edits: Sequence[RowEdit], rows: int, device: torch.device) -> CrossEdit | None:
        """Prepare the edits of a call, all of its token count; None if no row is touched."""
        edits = [edit for edit in edits if not edit.map_edit.is_untouched]
        if not edits:
            return None
        edited = torch.tensor([edit.row for edit in edits])
        gather = torch.arange(rows)
        gather[edited] = torch.tensor([edit.source for edit in edits])
        groups: dict[int, tuple[MapEdit, list[int]]] = {}
        for edit in edits:
            groups.setdefault(id(edit.map_edit), (edit.map_edit.multiplied, []))[1].append(edit.row)
        keep = torch.stack([groups[id(edit.map_edit)][0].keep for edit in edits])
        summed = [e for e in edits if e.renormalised and bool((e.map_edit.equalizer != 1).any())]
        return cls(
            rows=edited.to(device),
            gather=gather.to(device),
            inject=tuple(
                (torch.tensor(r, device=device), m.inject.to(device)) for m, r in groups.values()
            ),
            keep=keep[..., None].to(device),
            keeping=keep.any(dim=1).nonzero()[:, 0].to(device),
            renormalised=torch.tensor([edit.row for edit in summed], dtype=torch.int64).to(device),
            sums=_sums(summed, device) if summed else (),
        )

    def attend(
        self, attention: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the layer's output under the edited maps, plain where there is no edit.

        `mask`, [rows 1 1 tokens], hides tokens of each row, whoever looks at its keys.
        """
        value = v.clone()
        for rows, matrix in self.inject:
            value.index_copy_(0, rows, matrix.to(v.dtype) @ v.index_select(0, rows))

        def of(rows: Tensor) -> tuple[Tensor, ...]:
            return () if mask is None else (mask.index_select(0, rows),)

        queries, keys = q.index_select(0, self.gather), k.index_select(0, self.gather)
        out = attention(queries, keys, value, *of(self.gather))
        if len(self.keeping):
            own = self.rows[self.keeping]
            keep = self.keep[self.keeping].to(v.dtype)
            asked, keys, value = (tensor.index_select(0, own) for tensor in (q, k, v))
            out.index_add_(0, own, attention(asked, keys, value * keep, *of(own)))
        if self.sums:
            self._restore(out, attention, q, k, of)
        return out

    def _restore(
        self,
        out: Tensor,
        attention: Attend,
        q: Tensor,
        k: Tensor,
        of: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> None:
        """Divide rows of the output by what factors made of their sum, in place.

        Every channel of a value being the same weight, every channel of a head is its sum. `of`
        gives the mask of some rows, if there is one.
        """
        total = out.new_zeros(2, 1, 1, 1)
        for rows, weights in self.sums:
            asked, keys = q.index_select(0, rows), k.index_select(0, rows)
            values = weights.to(out.dtype).repeat(1, 1, 1, out.shape[-1])
            total = total + torch.stack(
                [attention(asked, keys, value, *of(rows)) for value in values]
            )
        without, factored = total
        ratio = without / factored.clamp(min=torch.finfo(out.dtype).tiny)
        out[self.renormalised] = out[self.renormalised] * ratio

    def adjust(self, output: Tensor, attention: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Add the edit as a difference to the `output` of somebody else's replacement.

        The replacement is one of this layer's attention.
        """
        if self.sums:  # a quotient is no sum of differences
            edited = self.attend(attention, q, k, v).index_select(0, self.rows)
            plain = attention(*(tensor.index_select(0, self.rows) for tensor in (q, k, v)))
            return output.index_add(0, self.rows, edited - plain)
        for rows, matrix in self.inject:
            source = self.gather[rows]
            value = matrix.to(v.dtype) @ v.index_select(0, rows)
            injected = attention(q.index_select(0, source), k.index_select(0, source), value)
            output = output.index_add(0, rows, injected)
        q, k, v = (tensor.index_select(0, self.rows) for tensor in (q, k, v))
        lost = attention(q, k, v * (self.keep - 1).to(v.dtype))
        return output.index_add(0, self.rows, lost)


def _sums(edits: Sequence[RowEdit], device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """Prepare what counts the sums of renormalised rows, see `CrossEdit.sums`."""
    plain = [edit.map_edit for edit in edits]
    both = (plain, [map_edit.multiplied for map_edit in plain])
    found: list[tuple[Tensor, Tensor]] = []
    for rows, weights in (
        ([e.source for e in edits], [[m.inject.sum(1) for m in maps] for maps in both]),
        ([e.row for e in edits], [[m.keep for m in maps] for maps in both]),
    ):
        stacked = torch.stack([torch.stack(one) for one in weights])[..., None]
        if stacked.any():
            found.append((torch.tensor(rows, device=device), stacked.to(device)))
    return tuple(found)


@dataclass(frozen=True)
class SelfEdit:
    """Which rows of one call take whose self-attention, in layers up to which size.

    Edited rows take their source's queries and keys, not its values (paper section 3.2). It is made
    before the network is called, which only looks it up: a compiler can trace that.
    """

    gathers: tuple[tuple[float, Tensor], ...]
    """(size of a layer that is too much, int64[rows]: whose queries and keys each row takes)."""

    @classmethod
    def of(
        cls, limits: Sequence[tuple[int, int, float]], rows: int, device: torch.device
    ) -> SelfEdit | None:
        """Make it of (injected row, its source row, size of a layer too large for it).

        A row of several sizes stands there once for each. None if there is nothing to inject.
        """
        gathers: list[tuple[float, Tensor]] = []
        for least in sorted({limit for *_, limit in limits}):
            gather = torch.arange(rows)
            for row, source, limit in limits:
                if limit >= least:
                    gather[row] = source
            gathers.append((least, gather.to(device)))
        return cls(tuple(gathers)) if gathers else None

    def gather(self, size: int) -> Tensor | None:
        """int64[rows]: whose queries and keys each row takes in such a layer; None: its own."""
        return next((gather for too_much, gather in self.gathers if size < too_much), None)
