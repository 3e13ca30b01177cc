"""Editing joint attention: text and image tokens in one sequence, under one softmax.

The paper's hybrid attention (appendix A.2), today's SD3, Flux, Qwen-Image and their like. Only the
image's queries are edited; text queries keep their own attention. As in `attention`, no map is ever
stored: each edit is a few ordinary calls with another value side.

*Shared structure*: an edited row takes the source's image queries and image keys, and keeps its
text and all its values (Shin et al. 2025, ConsistEdit 2025): a gather, one call. *Aligned words*,
the paper's own: image queries of source and edit, s and e, with t for text and i for image,

    attention(Qi_s, [Kt_s; Ki_s], [inject Vt_e; w Vi_e])
    + attention(Qi_e, [Kt_e; Ki_e], [keep Vt_e; (1 − w) Vi_e])

w being 1 while self-attention is injected, else 0. A factor c on a word multiplies its columns; to
make rows sum to 1 again, as if log c had been added before the softmax, the output is divided by
what the same calls make of values that are all c on the word and 1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from .attention import RowEdit
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
        self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, queries: Tensor | slice
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

    together: Tensor
    """int64[some]: rows that one call makes: not edited, or sharing structure alone."""
    gather: Tensor
    """int64[together]: whose image queries and keys each of them takes."""
    apart: Tensor
    """int64[others]: rows whose image queries are made term by term."""
    apart_keys: Tensor
    """int64[others]: whose image keys their text queries see."""
    terms: tuple[_Term, ...]
    renormalised: frozenset[int]
    """Rows of `apart` that are divided by what their factors make of their sum."""

    @classmethod
    def of(cls, edits: Sequence[RowEdit], rows: int, device: torch.device) -> JointEdit | None:
        """None if no row is touched. All must be of the call's number of text tokens.

        What is not said of renormalising is done where no factor is negative; edits whose mode is
        automatic share structure.
        """
        gather = torch.arange(rows)
        terms: list[_Term] = []
        renormalised: set[int] = set()
        keys: dict[int, int] = {}
        for edit in edits:
            aligned, equalizer = edit.mode == ALIGNED, edit.map_edit.equalizer
            taken = edit.source if edit.reaches else edit.row
            if not aligned:
                gather[edit.row] = taken
            factors = not bool((equalizer == 1).all())
            made = _terms(edit, taken) if aligned or factors else []
            if made:
                terms += made
                keys[edit.row] = edit.row if aligned else taken
                positive = edit.renormalised is None and bool((equalizer >= 0).all())
                if factors and (edit.renormalised or positive):
                    renormalised.add(edit.row)
        together = [row for row in range(rows) if row not in keys]
        if not terms and bool((gather == torch.arange(rows)).all()):
            return None
        return cls(
            together=torch.tensor(together, dtype=torch.int64, device=device),
            gather=gather[together].to(device),
            apart=torch.tensor(list(keys), dtype=torch.int64, device=device),
            apart_keys=torch.tensor(list(keys.values()), dtype=torch.int64, device=device),
            terms=tuple(terms),
            renormalised=frozenset(renormalised),
        )

    def attend(
        self, attention: JointAttend, q: Tensor, k: Tensor, v: Tensor, layout: Layout
    ) -> Tensor:
        """The block's output under the edit: [rows tokens channels], heads joined.

        q, k and v are [rows tokens channels] or [rows heads tokens channels].
        """
        width = v.shape[-1] * (layout.heads if v.ndim == 4 else 1)
        result = v.new_empty(q.shape[0], q.shape[-2], width)
        if len(self.together):
            out = attention(
                _taking(q, self.together, self.gather, layout.image),
                _taking(k, self.together, self.gather, layout.image),
                v.index_select(0, self.together),
                self.together,
                slice(0, q.shape[-2]),
            )
            if not self.terms:  # then no row is apart
                return out
            result.index_copy_(0, self.together, out)
        others = layout.others(q.shape[-2], q.device)
        for row, taken in zip(self.apart, self.apart_keys, strict=True):
            row = row[None]
            keys = _taking(k, row, taken[None], layout.image)
            text = q.index_select(0, row).index_select(-2, others)
            made = attention(text, keys, v.index_select(0, row), row, others)
            result[row] = result[row].index_copy(1, others, made)
        self._image(attention, q, k, v, layout, result)
        return result

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
            rows, taken = torch.tensor([[term.keys], [term.image_keys]], device=q.device)
            asked = q[term.queries, None][..., image, :]
            keys = _taking(k, rows, taken, image)
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
                made = _by_head(made, layout) * (without / with_factors)
                made = rearrange(made, "rows queries heads width -> rows queries (heads width)")
            result[row, image] = made[0].to(result)


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


def _taking(x: Tensor, rows: Tensor, image_of: Tensor, image: slice) -> Tensor:
    """Some rows of queries or keys, with the image part of others."""
    own = x.index_select(0, rows)
    if bool((rows != image_of).any()):
        own[..., image, :] = x[..., image, :].index_select(0, image_of)
    return own


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
