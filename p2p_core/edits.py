"""What an edit does: to the text of the prompt, and to attention at a moment of sampling.

Every edit is linear after the softmax (DESIGN: M̂ = M_src · inject + M_edit · diag(keep)), so at a
moment it is a pair (inject, keep), and an edit is a transform of that pair. A new kind of edit is a
new transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .alignment import Draft, Span
from .schedules import Window
from .tokens import Prompt


@dataclass(frozen=True)
class Pair:
    """M̂ = M_src · inject + M_edit · diag(keep)."""

    inject: Tensor
    """float[source_tokens edited_tokens]: carries the source's attention over."""
    keep: Tensor
    """float[edited_tokens]: the factor on the edited branch's own attention."""

    @classmethod
    def untouched(cls, source_tokens: int, edited_tokens: int) -> Pair:
        """The edited branch keeps its own attention."""
        return cls(torch.zeros(source_tokens, edited_tokens), torch.ones(edited_tokens))

    @property
    def is_untouched(self) -> bool:
        return not self.inject.any() and bool((self.keep == 1).all())

    def tiled(self, source: int, edited: int) -> Pair:
        """The pair for prompts repeated `source` and `edited` times along their tokens.

        Hosts pad unequal lengths so. Repeating keys divides each copy's attention by the number of
        copies and leaves the output as it was.
        """
        return Pair(self.inject.repeat(source, edited) / edited, self.keep.repeat(edited))


@dataclass(frozen=True)
class SelfInjection:
    """When and where an edited row takes the source row's self-attention map.

    Paper section 4, "f(t)". `reach` is the largest side of a layer, as a fraction of the latent's
    side, that it is done in: 0.25 is the 16×16 layers of a 64×64 latent and below, 1 is every
    layer.
    """

    window: Window = field(default_factory=Window)
    reach: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 1:
            raise ValueError(
                f"Expected a self-attention reach above 0 and up to 1, got {self.reach:g}. "
                "It is a fraction of the latent's side: 1 means every layer, 0.25 layers of a "
                "quarter side and below."
            )


class Edit(Protocol):
    """One link of a chain."""

    @property
    def self_injection(self) -> SelfInjection: ...

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        """Change the text.

        `present` is the draft's text with its words, `index` this edit's place in its chain.
        """
        ...

    def transform(self, pair: Pair, alpha: float, carried: Tensor, governs: Tensor) -> Pair:
        """Change the pair: `governs` as from `governed_tokens`, `carried` from `mapper`."""
        ...

    @property
    def cross(self) -> Window: ...


@dataclass(frozen=True)
class WordSwap:
    """Replace words, keep their place: the new words take the attention of the old ones.

    Paper section 4.
    """

    words: str
    replacement: str
    occurrence: int = 1
    cross: Window = field(default_factory=lambda: Window(0.0, 0.8))
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))

    def rewrite(self, draft: Draft, present: Prompt, index: int) -> Draft:
        """Raises `ValueError` if the words are not in the present text."""
        found = present.find(self.words, self.occurrence)
        start, end = present.words[found[0]].start, present.words[found[-1]].end
        return draft.replace(start, end, self.replacement.strip(), index)

    def transform(self, pair: Pair, alpha: float, carried: Tensor, governs: Tensor) -> Pair:
        """Blend the carried attention into the governed tokens' columns.

        Per governed token j: inject[:, j] → α · carried[:, j] + (1 − α) · inject[:, j],
        keep[j] → (1 − α) · keep[j].
        """
        weight = alpha * governs
        return Pair(weight * carried + (1 - weight) * pair.inject, (1 - weight) * pair.keep)


def governed_tokens(edited: Prompt, spans: Sequence[Span], carried: Tensor, index: int) -> Tensor:
    """Which tokens edit `index` acts on: float[edited_tokens], 0 or 1.

    The words it wrote, and everything no edit wrote; not the words of the chain's other edits,
    which have windows of their own, and not tokens that have no counterpart in the source.
    """
    governs = (carried.sum(0) > 0).float()
    for span in spans:
        if span.edit is not None and span.edit != index:
            for j in span.edited:
                governs[list(edited.words[j].tokens)] = 0.0
    return governs
