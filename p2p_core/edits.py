"""What an edit does: to the text of the prompt, and to attention at a moment of sampling.

Every edit is linear after the softmax (M̂ = M_src · inject + M_edit · diag(keep)), so at a moment it
is a pair (inject, keep), and two transforms of the pair make every edit: `holding` moves attention
over to the source's, `scaled` turns words up and down. They commute, so a chain's order matters for
the text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .alignment import Draft, Span, revise
from .schedules import Schedule, Window
from .tokens import Prompt, split_words


@dataclass(frozen=True)
class Pair:
    """M̂ = M_src · inject + M_edit · diag(keep). Made in float64, rounded once for use."""

    inject: Tensor
    """float[source_tokens edited_tokens]: carries the source's attention over."""
    keep: Tensor
    """float[edited_tokens]: the factor on the edited branch's own attention."""

    @classmethod
    def untouched(cls, source_tokens: int, edited_tokens: int) -> Pair:
        """The edited branch keeps its own attention."""
        return cls(
            torch.zeros(source_tokens, edited_tokens, dtype=torch.float64),
            torch.ones(edited_tokens, dtype=torch.float64),
        )

    def holding(self, carried: Tensor, share: Tensor) -> Pair:
        """Hand a share of each token's own attention over to what is carried from the source.

        Per token j, with `share` in 0–1: inject[:, j] + share_j · keep_j · carried[:, j], and
        (1 − share_j) · keep_j. Paper section 4, word swap and refinement.
        """
        return Pair(self.inject + share * self.keep * carried, (1 - share) * self.keep)

    def scaled(self, factors: Tensor) -> Pair:
        """Each token's attention times its factor. Paper section 4, attention re-weighting."""
        return Pair(self.inject * factors, self.keep * factors)

    @property
    def is_untouched(self) -> bool:
        return not self.inject.any() and bool((self.keep == 1).all())

    def tiled(self, source: int, edited: int) -> Pair:
        """The pair for prompts repeated `source` and `edited` times along their tokens.

        Hosts pad unequal lengths so. Repeating keys divides each copy's attention by the number of
        copies and leaves the output as it was.
        """
        return Pair(self.inject.repeat(source, edited) / edited, self.keep.repeat(edited))

    def to(self, dtype: torch.dtype) -> Pair:
        """The same pair, rounded."""
        return Pair(self.inject.to(dtype), self.keep.to(dtype))


Reach = float | None
"""The largest side of a layer, as a fraction of the latent's side; None: automatic."""


@dataclass(frozen=True)
class SelfInjection:
    """When and where an edited row takes the source row's self-attention map.

    Paper section 4, "f(t)". `reach` says up to which layers it is done: 0.25 is the 16×16 layers of
    a 64×64 latent and below, 1 is every layer. Automatic is the authors' own rule, layers of up to
    32×32 cells whatever the latent's size (`attention.AUTOMATIC_PIXELS`).
    """

    window: Window = field(default_factory=Window)
    reach: Reach = None

    def __post_init__(self) -> None:
        if self.window.fade:
            raise ValueError(
                f"Expected a self-attention window with hard ends, got a fade of "
                f"{self.window.fade:g}. Self-attention is all the source's or all its own: "
                "set the fade to 0."
            )
        if self.reach is not None and not 0 < self.reach <= 1:
            raise ValueError(
                f"Expected a self-attention reach above 0 and up to 1, got {self.reach:g}. "
                "It is a fraction of the latent's side: 1 means every layer, 0.25 layers of a "
                "quarter side and below. Leave it out for layers of up to 32×32 cells."
            )


class Edit(Protocol):
    """One link of a chain."""

    @property
    def schedule(self) -> Schedule | None:
        """When it acts on which words; None: as long as the edits that hold do, or always."""
        ...

    @property
    def self_injection(self) -> SelfInjection: ...

    @property
    def holds(self) -> bool:
        """Whether it takes the source's attention; others do so only where no edit of a chain does.

        Only edits that hold inject self-attention, with the same exception.
        """
        ...

    @property
    def tokenwise(self) -> bool:
        """Whether tokens are aligned inside the words it wrote, see `alignment.Span`."""
        ...

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        """Change the text.

        `present` is the draft's text with its words, `index` this edit's place in its chain.
        """
        ...

    def injects(self, span: Span) -> bool:
        """Whether words of a span that this edit wrote take the source's attention."""
        ...

    @property
    def weights(self) -> Sequence[tuple[str, float]]:
        """Phrases of the edited prompt and what their attention is multiplied with."""
        ...


@dataclass(frozen=True)
class WordSwap:
    """Replace words, keep their place: the new words take the attention of the old ones.

    Paper section 4.
    """

    words: str
    replacement: str
    occurrence: int = 1
    schedule: Schedule = field(default_factory=lambda: Schedule(Window(0.0, 0.8)))
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    holds: bool = field(default=True, init=False)
    tokenwise: bool = field(default=False, init=False)
    weights: tuple[tuple[str, float], ...] = field(default=(), init=False)

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        """Write the replacement, set apart from words that it would run into.

        Raises `ValueError` if the words are not in the present text.
        """
        found = present.find(self.words, self.occurrence)
        start, end = present.words[found[0]].start, present.words[found[-1]].end
        before, after = present.text[:start], present.text[end:]
        text = self.replacement.strip()
        text = _gap(before, text) + text
        return draft.replace(start, end, text + _gap(before + text, after), index)

    def injects(self, span: Span) -> bool:
        return True


@dataclass(frozen=True)
class Refine:
    """Give the edited prompt whole: what both prompts have keeps the source's attention.

    Words that only the edited prompt has attend for themselves. `inject_swapped` says whether words
    in the place of others take their attention, as in a word swap. Paper section 4.
    """

    prompt: str
    inject_swapped: bool = True
    schedule: Schedule = field(default_factory=lambda: Schedule(Window(0.0, 0.8)))
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    origin: str = field(default="", compare=False)
    """Whoever made this edit, to be told the alignment that was found."""
    holds: bool = field(default=True, init=False)
    tokenwise: bool = field(default=True, init=False)
    weights: tuple[tuple[str, float], ...] = field(default=(), init=False)

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        """Raises `ValueError` if there are no words in the edited prompt."""
        if not self.prompt.strip():
            raise ValueError(
                f"Expected the edited prompt, got {self.prompt!r}. Write it out in full, "
                f"such as the source prompt {present.text!r} with a word added."
            )
        return revise(draft, self.prompt.strip(), index)

    def injects(self, span: Span) -> bool:
        return self.inject_swapped


@dataclass(frozen=True)
class Reweight:
    """Turn words of the edited prompt up or down: their attention is multiplied with a factor.

    `weights` are phrases with their factors, any real number: 1 leaves a word as it is, 0 takes its
    attention away, negative ones turn it round. Without a schedule it acts as long as the other
    edits of its chain hold the source's attention, or all through where there are none; alone it
    holds that attention itself. Paper section 4, attention re-weighting (fader control).
    """

    weights: tuple[tuple[str, float], ...]
    schedule: Schedule | None = None
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    holds: bool = field(default=False, init=False)
    tokenwise: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(
                "Expected at least one word with its factor, got none. "
                "Write such as 'fluffy: 2', one a line."
            )

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        return draft

    def injects(self, span: Span) -> bool:
        return True


def _gap(before: str, after: str) -> str:
    """A space where the words of two texts would run into one word."""
    apart = len(split_words(before)) + len(split_words(after))
    return " " if len(split_words(before + after)) < apart else ""


def held_tokens(
    edited: Prompt, spans: Sequence[Span], carried: Tensor, edit: Edit, index: int
) -> Tensor:
    """Which tokens take the source's attention by an edit: float[edited_tokens], 0 or 1.

    The words it wrote, and everything no edit wrote; not the words of the chain's other edits,
    which have windows of their own, and not tokens that have no counterpart in the source.
    """
    held = (carried.sum(0) > 0).float()
    for span in spans:
        if span.edit is not None and not (span.edit == index and edit.injects(span)):
            for j in span.edited:
                held[list(edited.words[j].tokens)] = 0.0
    return held


def factors(edited: Prompt, weights: Sequence[tuple[str, float]]) -> Tensor:
    """What each token's attention is multiplied with: float64[edited_tokens].

    Raises `ValueError` for a phrase that the edited prompt lacks.
    """
    factors = torch.ones(edited.length, dtype=torch.float64)
    for phrase, factor in weights:
        factors[edited.tokens_of(phrase)] *= factor
    return factors
