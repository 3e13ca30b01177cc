"""Editing attention on the value side: no attention map is ever stored.

M̂ V = (M_src · inject + M_edit · diag(keep)) V = attention(Q_src, K_src, inject V) +
attention(Q_edit, K_edit, keep ⊙ V), two ordinary attention calls, on any backend and at any
resolution. Paper section 3.2, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log2

import torch
from torch import Tensor

from .edits import MapEdit, Reach

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function that computes attention.

attention(q[rows pixels channels], k[rows tokens channels], v[rows tokens channels])
→ [rows pixels channels].
"""


AUTOMATIC_PIXELS = 32**2
"""Pixels of the largest layers into which self-attention is injected where no reach is given.

The rule of the authors' null-text notebook and of the published PIE-Bench runs.
"""


@dataclass(frozen=True)
class RowEdit:
    """In one call of the network, `row` is edited by `map_edit` after row `source`."""

    row: int
    source: int
    map_edit: MapEdit


@dataclass(frozen=True)
class CrossEdit:
    """All edits of one call of the network, ready for every cross-attention layer of it."""

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

    @classmethod
    def of(cls, edits: Sequence[RowEdit], rows: int, device: torch.device) -> CrossEdit | None:
        """None if no row is touched. All must be of the call's token count."""
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
        return cls(
            rows=edited.to(device),
            gather=gather.to(device),
            inject=tuple(
                (torch.tensor(r, device=device), m.inject.to(device)) for m, r in groups.values()
            ),
            keep=keep[..., None].to(device),
            keeping=keep.any(dim=1).nonzero()[:, 0].to(device),
        )

    def attend(self, attention: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The layer's output under the edited maps; rows without an edit get plain attention."""
        value = v.clone()
        for rows, matrix in self.inject:
            value.index_copy_(0, rows, matrix.to(v.dtype) @ v.index_select(0, rows))
        out = attention(q.index_select(0, self.gather), k.index_select(0, self.gather), value)
        if len(self.keeping):
            own = self.rows[self.keeping]
            keep = self.keep[self.keeping].to(v.dtype)
            q, k, v = (tensor.index_select(0, own) for tensor in (q, k, v))
            out.index_add_(0, own, attention(q, k, v * keep))
        return out

    def adjust(self, output: Tensor, attention: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same edit as a difference, added to the `output` of somebody else's replacement.

        The replacement is one of this layer's attention.
        """
        for rows, matrix in self.inject:
            source = self.gather[rows]
            value = matrix.to(v.dtype) @ v.index_select(0, rows)
            injected = attention(q.index_select(0, source), k.index_select(0, source), value)
            output = output.index_add(0, rows, injected)
        q, k, v = (tensor.index_select(0, self.rows) for tensor in (q, k, v))
        lost = attention(q, k, v * (self.keep - 1).to(v.dtype))
        return output.index_add(0, self.rows, lost)


@dataclass(frozen=True)
class SelfEdit:
    """Which rows of one call take whose self-attention, in layers up to which size.

    Edited rows take their source's queries and keys, not its values (paper section 3.2). It is made
    before the network is called, which only looks it up: a compiler can trace that.
    """

    rows: int
    gathers: tuple[tuple[float, Tensor], ...]
    """(pixels of a layer that are too many, int64[rows]: whose queries and keys each row takes)."""

    @classmethod
    def of(
        cls,
        injected: Sequence[tuple[int, int, Reach]],
        rows: int,
        latent_pixels: int,
        device: torch.device,
    ) -> SelfEdit | None:
        """From each injected row, its source row and a reach of it (see `edits.SelfInjection`).

        A row of several reaches stands there once for each. None if there is nothing to inject.
        """
        limits = [(row, source, _limit(reach, latent_pixels)) for row, source, reach in injected]
        gathers: list[tuple[float, Tensor]] = []
        for least in sorted({limit for *_, limit in limits}):
            gather = torch.arange(rows)
            for row, source, limit in limits:
                if limit >= least:
                    gather[row] = source
            gathers.append((least, gather.to(device)))
        return cls(rows, tuple(gathers)) if gathers else None

    def gather(self, pixels: int) -> Tensor | None:
        """int64[rows]: whose queries and keys each row takes at `pixels` pixels; None: its own."""
        return next((gather for too_many, gather in self.gathers if pixels < too_many), None)


def _limit(reach: Reach, latent_pixels: int) -> float:
    """Pixels of a layer that are too many for a reach.

    A UNet halves sides and rounds up, so a layer of a quarter of an odd side is a little larger
    than that. It counts as a quarter: the next size has four times its pixels.
    """
    if reach is None:
        return AUTOMATIC_PIXELS + 1
    side = 2.0 ** floor(log2(reach * (1 + 1e-3)))
    return 2 * side**2 * latent_pixels
