"""Align source and edited prompt: which words correspond, and where attention goes.

Words are kept, swapped, inserted or deleted. A `Draft` remembers how the edited text came from the
source text (`revise` finds that out from two whole texts); `align` turns it into spans of words
once both prompts are tokenised; `mapper` turns the spans into the matrix that carries the source's
attention columns over (paper section 4, eq. for word swap and A(j) of prompt refinement).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile

import torch
from torch import Tensor

from .matching import matching
from .tokens import Prompt


@dataclass(frozen=True)
class Piece:
    """A run of the edited text, standing for the source text's characters `start:end`."""

    start: int
    end: int
    text: str
    edit: int | None = None
    """Index, in its chain, of the edit that wrote this text; None for text of the source."""


@dataclass(frozen=True)
class Draft:
    """A source text under edit: pieces in order, together covering all of it."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, text: str) -> Draft:
        return cls((Piece(0, len(text), text),))

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def replace(self, start: int, end: int, text: str, edit: int) -> Draft:
        """Write `text` over characters `start:end` of the present text, in the name of `edit`.

        Text of earlier edits that it touches goes over to it whole: what such a text stands for in
        the source cannot be divided. So does deleted text, where it is put in its place.

        >>> Draft.of("a cat").replace(2, 5, "dog", edit=0).pieces[1]
        Piece(start=2, end=5, text='dog', edit=0)
        """
        before: list[Piece] = []
        touched: list[Piece] = []
        after: list[Piece] = []
        at = 0
        for piece in self.pieces:
            here, at = at, at + len(piece.text)
            in_place = not piece.text and here == start == end
            if at <= start and not in_place:
                before.append(piece)
            elif here >= end and not in_place:
                after.append(piece)
            else:
                head, tail = max(start - here, 0), min(end - here, len(piece.text))
                left, right = piece.text[:head], piece.text[tail:]
                if piece.edit is not None:
                    touched.append(piece)
                    text = left + text + right
                    continue
                if left:
                    before.append(Piece(piece.start, piece.start + head, left))
                if right:
                    after.append(Piece(piece.start + tail, piece.end, right))
                touched.append(Piece(piece.start + head, piece.start + tail, ""))
        if touched:
            written = Piece(touched[0].start, touched[-1].end, text, edit)
        else:
            place = before[-1].end if before else 0
            written = Piece(place, place, text, edit)
        return Draft((*before, written, *after))

    def divided(self, start: int, end: int) -> Draft:
        """Make characters `start:end` a piece of their own, of nothing in the source.

        What the piece that they lie in stands for stays with what is before them.
        """
        pieces: list[Piece] = []
        at = 0
        for piece in self.pieces:
            here, at = at, at + len(piece.text)
            if here <= start < end <= at:
                before, own, after = (
                    piece.text[slice(*part)]
                    for part in ((0, start - here), (start - here, end - here), (end - here, None))
                )
                pieces.append(Piece(piece.start, piece.end, before, piece.edit))
                pieces.append(Piece(piece.end, piece.end, own, piece.edit))
                pieces += [Piece(piece.end, piece.end, after)] if after else []
            else:
                pieces.append(piece)
        return Draft(tuple(pieces))


def revise(draft: Draft, before: Prompt, after: Prompt, edit: int) -> Draft:
    """Turn the present text into another, in the name of `edit`, words that both have being kept.

    `before` is the draft's text with its words, `after` the other. A word that differs in case
    alone is written anew, but `align` keeps it. Paper section 4, prompt refinement: the alignment
    of two prompts.
    """
    old, new = before.words, after.words
    pairs = matching([word.text.casefold() for word in old], [word.text.casefold() for word in new])
    ends = [(-1, -1), *pairs, (len(old), len(new))]
    for (i, j), (after_i, after_j) in reversed(list(pairwise(ends))):
        start, end = _between(before, i, after_i)
        present, written = before.text[start:end], after.text[slice(*_between(after, j, after_j))]
        head = _shared_space(present, written)
        tail = _shared_space(present[head:][::-1], written[head:][::-1])
        if written != present:
            written = written[head : len(written) - tail]
            draft = draft.replace(start + head, end - tail, written, edit)
        if i >= 0 and new[j].text != old[i].text:
            draft = draft.replace(old[i].start, old[i].end, new[j].text, edit)
    return draft


def _between(prompt: Prompt, before: int, after: int) -> tuple[int, int]:
    """Characters between two words; −1 stands before the first, len(words) behind the last."""
    words = prompt.words
    return (
        words[before].end if before >= 0 else 0,
        words[after].start if after < len(words) else len(prompt.text),
    )


def _shared_space(a: str, b: str) -> int:
    """How many characters of white space two texts both begin with."""
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] and pair[0].isspace(), pairs))


@dataclass(frozen=True)
class Span:
    """Words `source` of the source prompt became words `edited` of the edited prompt.

    `edit` is the index of the edit that wrote them, None if they are unchanged. `tokenwise`: tokens
    that both sides have correspond to each other, as when only a word's ending changed.
    """

    source: range
    edited: range
    edit: int | None
    tokenwise: bool = False

    @property
    def kind(self) -> str:
        """One of kept, swapped, inserted and deleted."""
        if self.source and self.edited:
            return "kept" if self.edit is None else "swapped"
        return "inserted" if self.edited else "deleted"


def align(
    draft: Draft, source: Prompt, edited: Prompt, tokenwise: Collection[int] = ()
) -> tuple[Span, ...]:
    """Match the words of both prompts: spans in order, covering all; kept words one by one.

    Kept are the words of text that no edit wrote. `tokenwise` are the edits that were given the
    whole text: what they wrote keeps words too, those that differ in case alone, and their other
    words are aligned token by token.

    >>> from p2p_core.tokens import read_prompt
    >>> def read(text):  # a tokenizer that makes a token of every word
    ...     words = text.split()
    ...     return read_prompt(text, words, range(1, 1 + len(words)), 8, str.split)
    >>> draft = Draft.of("a cat sits").replace(2, 5, "big dog", edit=0)
    >>> source, edited = read("a cat sits"), read(draft.text)
    >>> describe(source, edited, align(draft, source, edited))
    'a, cat → big dog, sits'
    """
    ends_source = [piece.end for piece in draft.pieces]
    ends_edited = list(accumulate(len(piece.text) for piece in draft.pieces))
    spans: list[Span] = []
    i = j = 0
    for piece, end_source, end_edited in zip(draft.pieces, ends_source, ends_edited, strict=True):
        i0, j0 = i, j
        while i < len(source.words) and source.words[i].start < end_source:
            i += 1
        while j < len(edited.words) and edited.words[j].start < end_edited:
            j += 1
        keeps = piece.edit is None or piece.edit in tokenwise
        pairs = matching(
            [word.text.casefold() for word in source.words[i0:i] if keeps],
            [word.text.casefold() for word in edited.words[j0:j] if keeps],
        )
        for (m, n), (p, q) in pairwise([(-1, -1), *pairs, (i - i0, j - j0)]):
            if m >= 0:
                spans.append(Span(range(i0 + m, i0 + m + 1), range(j0 + n, j0 + n + 1), None))
            if p - m > 1 or q - n > 1:
                source_words, edited_words = range(i0 + m + 1, i0 + p), range(j0 + n + 1, j0 + q)
                spans.append(Span(source_words, edited_words, piece.edit, piece.edit in tokenwise))
    return tuple(spans)


LONG = 12
"""Spans of a prompt that is not shown whole, but by its changes with some words around them."""


def describe(source: Prompt, edited: Prompt, spans: Sequence[Span]) -> str:
    """Say the alignment in a line: "a, cat → big dog, on, −wet, grass, +at night".

    Of a long prompt, what `changes` says.
    """
    if len(spans) > LONG:
        return changes(source, edited, spans)
    return ", ".join(_said(source, edited, span) for span in spans)


def changes(
    source: Prompt, edited: Prompt, spans: Sequence[Span], edit: int | None = None, around: int = 2
) -> str:
    """Say what has changed, in a line: "red → blue · 4 words kept".

    `edit` is the place in its chain of the edit that is asked about, None for all. In a long prompt
    changes stand in brackets between the words `around` them: "… a big [red → blue] circle on …".
    """
    changed = [
        n for n, span in enumerate(spans) if span.kind != "kept" and edit in (None, span.edit)
    ]
    kept = sum(
        any(map(str.isalnum, edited.words[j].text))
        for span in spans
        if span.kind == "kept"
        for j in span.edited
    )
    count = f"{kept} word{'' if kept == 1 else 's'} kept"
    if not changed:
        return f"no word changed · {count}"
    if len(spans) <= LONG:
        said = ", ".join(_said(source, edited, spans[n]) for n in changed)
        return f"{said} · {count}"
    parts: list[str] = []
    shown = {n + m for n in changed for m in range(-around, around + 1)} & {*range(len(spans))}
    for before, n in pairwise([-1, *sorted(shown)]):
        text = _said(source, edited, spans[n])
        parts += ["…"] * (n - before > 1) + [f"[{text}]" if n in changed else text]
    parts += ["…"] * (max(shown) < len(spans) - 1)
    return f"{' '.join(parts)} · {count}"


def _said(source: Prompt, edited: Prompt, span: Span) -> str:
    before = " ".join(source.words[i].text for i in span.source)
    after = " ".join(edited.words[j].text for j in span.edited)
    return {
        "kept": after,
        "swapped": f"{before} → {after}",
        "inserted": f"+{after}",
        "deleted": f"−{before}",
    }[span.kind]


def mapper(source: Prompt, edited: Prompt, spans: Sequence[Span]) -> Tensor:
    """Map the source's attention to the edited prompt: float32[source_tokens edited_tokens].

    To be used as M_src @ mapper. Spans of equally many tokens map one to one; otherwise every
    edited token gets the sum of the source span's columns divided by the number of edited tokens.
    In a tokenwise span that holds for the runs of tokens between those that both sides have.
    A column of zeros belongs to an inserted token.

    Special tokens take the source's as the authors have it, whatever the edit: a chunk's start its
    start, its end its end, and padding at position j what stands at the source's position j, A(j) =
    j, be that padding, the end, or words of a longer source. Where the prompts differ in length
    (one has more chunks) there is no such j: then start, end and padding are each laid evenly over
    their like, mass kept, padding over the end where one side has none.

    >>> from p2p_core.tokens import read_prompt
    >>> source = read_prompt("a cat", ["a", "cat"], [1, 2], 5, str.split)
    >>> edited = read_prompt("a big dog", ["a", "big", "dog"], [1, 2, 3], 5, str.split)
    >>> mapper(source, edited, [Span(range(0, 1), range(0, 1), None),
    ...                         Span(range(1, 2), range(1, 3), 0)])
    tensor([[1.0000, 0.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000, 0.0000, 1.0000],
            [0.0000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    if source.sequences or edited.sequences:
        whole = torch.zeros(source.length, edited.length)
        for rows, columns, one, other in zip(
            source.sequences, edited.sequences, source.parts, edited.parts, strict=True
        ):
            own = mapper(one, other, spans)
            whole[rows.start : rows.stop, columns.start : columns.stop] = own
        return whole
    matrix = torch.zeros(source.length, edited.length)
    for span in spans:
        for rows, columns in _token_runs(source, edited, span):
            if len(rows) == len(columns):
                matrix[rows, columns] = 1.0
            elif rows and columns:
                matrix[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1.0 / len(columns)
    first = min((t for word in edited.words for t in word.tokens), default=0)
    (start, end, padding), (to_start, to_end, to_padding) = (
        _special_blocks(prompt, first) for prompt in (source, edited)
    )
    if source.length == edited.length and len(end) == len(to_end):
        matrix[to_start + to_padding, to_start + to_padding] = 1.0
        matrix[end, to_end] = 1.0
        return matrix
    _spread(matrix, start, to_start)
    if padding and to_padding:
        _spread(matrix, end, to_end)
        _spread(matrix, padding, to_padding)
    else:
        _spread(matrix, sorted(end + padding), sorted(to_end + to_padding))
    return matrix


def _token_runs(source: Prompt, edited: Prompt, span: Span) -> list[tuple[list[int], list[int]]]:
    """Positions of the span's tokens on both sides, in runs that correspond."""
    rows = [t for i in span.source for t in source.words[i].tokens]
    columns = [t for j in span.edited for t in edited.words[j].tokens]
    if not span.tokenwise:
        return [(rows, columns)]
    pairs = matching(
        [token for i in span.source for token in source.words[i].ids],
        [token for j in span.edited for token in edited.words[j].ids],
    )
    runs: list[tuple[list[int], list[int]]] = [([rows[i]], [columns[j]]) for i, j in pairs]
    ends = [(-1, -1), *pairs, (len(rows), len(columns))]
    runs += [(rows[i + 1 : k], columns[j + 1 : n]) for (i, j), (k, n) in pairwise(ends)]
    return runs


def _special_blocks(prompt: Prompt, first: int) -> tuple[list[int], list[int], list[int]]:
    """Positions of the special tokens of all chunks of a prompt: start, end, padding.

    A chunk begins with `first` start tokens, and one end token follows its words.
    """
    taken = sorted(t for word in prompt.words for t in word.tokens)
    starts, ends, padding = list(range(first)), list[int](), list[int]()
    for a, b in pairwise([*(taken or [first - 1]), prompt.length + first]):
        starts += range(max(a + 1, b - first), min(b, prompt.length))
        rest = range(a + 1, b - first)
        ends += rest[:1]
        padding += rest[1:]
    return starts, ends, padding


def _spread(matrix: Tensor, rows: list[int], columns: list[int]) -> None:
    """Lay `rows` evenly over `columns`, each row's mass kept.

    The identity if they are equally many.
    """
    if not rows or not columns:
        return
    edges_rows = torch.linspace(0, 1, len(rows) + 1, dtype=torch.float64)
    edges_columns = torch.linspace(0, 1, len(columns) + 1, dtype=torch.float64)
    low = torch.maximum(edges_rows[:-1, None], edges_columns[None, :-1])
    high = torch.minimum(edges_rows[1:, None], edges_columns[None, 1:])
    overlap = (high - low).clamp(min=0) * len(rows)
    overlap[overlap < 1e-9] = 0
    matrix[torch.tensor(rows)[:, None], torch.tensor(columns)[None, :]] = overlap.float()
