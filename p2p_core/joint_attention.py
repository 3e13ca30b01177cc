"""Editing joint attention: text and image tokens in one sequence, under one softmax.

The paper's hybrid attention (appendix A.2), today's SD3, Flux, Qwen-Image and their like. Only the
image's queries are edited; text queries keep their own attention. As in `attention`, no map is ever
stored: each edit is a few ordinary calls with another value side.

*Shared structure*: an edited row takes the source's image queries and image keys, and keeps its
text and all its values (Shin et al. 2025, ConsistEdit 2025), at no more attention than without.
*Aligned words*, the paper's own: image queries of source and edit, s and e, with t for text and i
for image,

    attention(Qi_s, [Kt_s; Ki_s], [inject Vt_e; w Vi_e])
    + attention(Qi_e, [Kt_e; Ki_e], [keep Vt_e; (1 − w) Vi_e])

w being 1 while self-attention is injected, else 0. A factor c on a word multiplies its columns; to
make rows sum to 1 again, as if log c had been added before the softmax, the output is divided by
what the same calls make of values that are all c on the word and 1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from .attention import Attend, RowEdit
from .attention_maps import OwnAttention
from .edits import ALIGNED


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a joint sequence stand; what is neither text nor image goes with it."""

    text: slice
    image: slice
    """Of the image that is sampled, not of reference images."""
    heads: int

    def others(self, length: int, device: torch.device) -> Tensor:
        """int64[positions]: everything but the image, in a sequence of so many tokens."""
        positions = torch.arange(length, device=device)
        return torch.cat([positions[: self.image.start], positions[self.image.stop :]])


class JointAttend(Protocol):
    """A function that computes attention for some rows and queries of a call."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Sequence[int], queries: Tensor | slice
    ) -> Tensor:
        """q, k, v[rows … tokens channels], heads joined or apart → [rows queries channels], joined.

        `rows` and `queries` say which of the call's they are, for masks.
        """
        ...


@dataclass(frozen=True)
class _Term:
    """One call's worth of an edited row's image queries."""

    row: int
    """Whose values, and whose output."""
    queries: int
    """Whose image queries."""
    keys: int
    """Whose keys, but for the image's, and whose mask."""
    image_keys: int
    mix: Tensor
    """float[tokens tokens]: what the text's values are multiplied with, factors included."""
    plain: Tensor
    """The same without factors."""
    image: float
    """What all other values are multiplied with."""


@dataclass(frozen=True)
class JointEdit:
    """All edits of one block in one call of the network."""

    plain: tuple[int, ...]
    """Rows that are not edited."""
    moved: dict[int, int]
    """Rows that share structure and nothing else, and whose image queries and keys they take."""
    apart: dict[int, int]
    """Rows whose image queries are made term by term, and whose image keys their text sees."""
    terms: tuple[_Term, ...]
    renormalised: frozenset[int]
    """Rows of `apart` that are divided by what their factors make of their sum."""

    @classmethod
    def of(cls, edits: Sequence[RowEdit], rows: int, device: torch.device) -> JointEdit | None:
        """Prepare the edits of a call, all of its number of text tokens; None if none acts.

        What is not said of renormalising is done where no factor is negative; edits whose mode is
        automatic share structure.
        """
        moved: dict[int, int] = {}
        apart: dict[int, int] = {}
        terms: list[_Term] = []
        renormalised: set[int] = set()
        for edit in edits:
            aligned, equalizer = edit.mode == ALIGNED, edit.map_edit.equalizer
            taken = edit.source if edit.reaches else edit.row
            factors = not bool((equalizer == 1).all())
            made = _terms(edit, taken) if aligned or factors else []
            if made:
                terms += made
                apart[edit.row] = edit.row if aligned else taken
                positive = edit.renormalised is None and bool((equalizer >= 0).all())
                if factors and (edit.renormalised or positive):
                    renormalised.add(edit.row)
            elif not aligned and taken != edit.row:
                moved[edit.row] = taken
        if not moved and not apart:
            return None
        return cls(
            plain=tuple(row for row in range(rows) if row not in moved and row not in apart),
            moved=moved,
            apart=apart,
            terms=tuple(
                replace(term, mix=term.mix.to(device), plain=term.plain.to(device))
                for term in terms
            ),
            renormalised=frozenset(renormalised),
        )

    def attend(
        self, attention: JointAttend, q: Tensor, k: Tensor, v: Tensor, layout: Layout
    ) -> Tensor:
        """Compute the block's output under the edit: [rows tokens channels], heads joined.

        q, k and v are [rows tokens channels] or [rows heads tokens channels].
        """
        width = v.shape[-1] * (layout.heads if v.ndim == 4 else 1)
        result = v.new_empty(q.shape[0], q.shape[-2], width)
        whole = slice(0, q.shape[-2])
        for rows, taken in (
            (self.plain, self.plain),
            ((*self.moved,), (*self.moved.values(),)),
        ):
            if rows:
                asked, keys = (_taking(x, rows, taken, layout.image) for x in (q, k))
                result[_span(rows)] = attention(asked, keys, v[_span(rows)], rows, whole)
        if not self.apart:
            return result
        others = layout.others(q.shape[-2], q.device)
        for row, taken in self.apart.items():
            keys = _taking(k, (row,), (taken,), layout.image)
            text = q[row, None].index_select(-2, others)
            made = attention(text, keys, v[row, None], (row,), others)
            result[row].index_copy_(0, others, made[0])
        self._image(attention, q, k, v, layout, result)
        return result

    def image_looked_at(self, rows: int) -> list[int]:
        """Tell whose image's queries and keys the image of each row has."""
        taken = {**self.moved}
        taken |= {term.row: term.image_keys for term in self.terms if term.image == 1}
        return [taken.get(row, row) for row in range(rows)]

    def _image(
        self,
        attention: JointAttend,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layout: Layout,
        result: Tensor,
    ) -> None:
        """Write the image's queries of rows that are apart into the result."""
        image = layout.image
        sums: dict[int, Tensor] = {}
        weights: dict[int, Tensor] = {}
        for term in self.terms:
            rows, asked = (term.keys,), q[term.queries, None][..., image, :]
            keys = _taking(k, rows, (term.image_keys,), image)
            values = v[term.row, None] * term.image
            mix = term.mix.to(v)
            values[..., layout.text, :] = mix @ v[term.row, None][..., layout.text, :]
            made = attention(asked, keys, values, rows, image)
            sums[term.row] = sums[term.row] + made if term.row in sums else made
            if term.row in self.renormalised:
                value = _weights(term, v[term.row, None], layout)
                counted = _by_head(attention(asked, keys, value, rows, image), layout)[..., :2]
                before = weights.get(term.row)
                weights[term.row] = counted if before is None else before + counted
        for row, made in sums.items():
            if row in weights:
                with_factors, without = weights[row][..., :1], weights[row][..., 1:]
                least = torch.finfo(made.dtype).tiny  # factors of 0 everywhere leave nothing
                made = _by_head(made, layout) * (without / with_factors.clamp(min=least))
                made = rearrange(made, "rows queries heads width -> rows queries (heads width)")
            result[row, image] = made[0].to(result)


def seen(
    attention: JointAttend,
    edit: JointEdit | None,
    layout: Layout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Tensor:
    """Compute the image's output for values, edited where there is an edit: [rows pixels channels].

    q, k and v as in `JointEdit.attend`.
    """
    if edit is not None:
        return edit.attend(attention, q, k, v, layout)[:, layout.image]
    return attention(q[..., layout.image, :], k, v, range(q.shape[0]), layout.image)


def own_attention(
    attention: Attend, edit: JointEdit | None, layout: Layout, q: Tensor, k: Tensor
) -> OwnAttention:
    """Make the attention of the image to itself, under the edit: its columns, made to sum to 1."""
    if edit is not None:
        rows = edit.image_looked_at(q.shape[0])
        q, k = q[rows], k[rows]
    return OwnAttention(attention, q[..., layout.image, :], k[..., layout.image, :], layout.heads)


def part_of(mask: Tensor | None, rows: Sequence[int], queries: Tensor | slice) -> Tensor | None:
    """Cut a call's mask, [(rows) (heads) queries keys] or 1 of any, to some rows and queries."""
    if mask is None:
        return None
    if mask.ndim > 2 and mask.shape[0] > 1:
        mask = mask[list(rows)]
    return mask[..., queries, :] if mask.shape[-2] > 1 else mask


def _terms(edit: RowEdit, taken: int) -> list[_Term]:
    """What an edited row's image queries add up from; empty where nothing is edited.

    `taken` is the row whose self-attention it takes.
    """
    pair, equalizer, row = edit.map_edit, edit.map_edit.equalizer, edit.row
    if edit.mode != ALIGNED:
        plain = torch.eye(len(equalizer), dtype=equalizer.dtype)
        return [_Term(row, taken, row, taken, plain * equalizer, plain, 1.0)]
    if pair.is_untouched and not edit.reaches:
        return []
    share, found = float(bool(edit.reaches)), list[_Term]()
    if pair.inject.any() or share:
        source = edit.source
        found.append(
            _Term(row, source, source, source, pair.inject * equalizer, pair.inject, share)
        )
    if pair.keep.any() or not share:
        own = pair.keep.diag()
        found.append(_Term(row, row, row, row, own * equalizer, own, 1 - share))
    return found


def _taking(x: Tensor, rows: Sequence[int], image_of: Sequence[int], image: slice) -> Tensor:
    """Some rows of queries or keys, with the image part of others."""
    own = x[_span(rows)]
    if tuple(rows) != tuple(image_of):
        theirs = x[_span(image_of)][..., image, :]
        own = torch.cat([own[..., : image.start, :], theirs, own[..., image.stop :, :]], dim=-2)
    return own


def _span(rows: Sequence[int]) -> slice | list[int]:
    """Rows as an index, which makes no copy where they stand one after the other."""
    if list(rows) == [*range(rows[0], rows[0] + len(rows))]:
        return slice(rows[0], rows[0] + len(rows))
    return list(rows)


def _weights(term: _Term, v: Tensor, layout: Layout) -> Tensor:
    """Values whose attention counts a term's weights: with factors, and without."""
    apart = torch.zeros_like(v if v.ndim == 4 else _by_head(v, layout).transpose(1, 2))
    apart[..., :2] = term.image
    apart[..., layout.text, :2] = torch.stack([term.mix.sum(1), term.plain.sum(1)], dim=-1).to(v)
    if v.ndim == 4:
        return apart
    return rearrange(apart, "rows heads tokens width -> rows tokens (heads width)")


def _by_head(x: Tensor, layout: Layout) -> Tensor:
    return rearrange(x, "rows tokens (heads width) -> rows tokens heads width", heads=layout.heads)
