"""Mix: a word swap by degree."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from ..alignment import Draft, Span
from ..schedules import Schedule, Window
from ..tokens import Prompt, split_words
from .base import Aligned, Read, SelfInjection
from .map_edit import MapEdit
from .word_swap import WordSwap


@dataclass(frozen=True)
class Mix:
    """Put words beside the old ones: attention and values are (1 − degree) old and degree new.

    0 is the source's prompt, 1 a word swap. Raises `ValueError` for a degree outside 0–1, and for
    a share of no words.
    """

    words: str
    replacement: str
    degree: float = 0.5
    occurrence: int = 1
    schedule: Schedule = field(default_factory=lambda: Schedule(Window(0.0, 0.8)))
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    holds: bool = field(default=True, init=False)
    tokenwise: bool = field(default=False, init=False)
    phrases: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 1:
            raise ValueError(f"Expected a degree from 0 (old) to 1 (new), got {self.degree:g}.")
        if self.degree < 1 and not split_words(self.replacement):
            raise ValueError("Expected words to mix in, got none. Write a replacement.")

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        found = present.find(self.words, self.occurrence)
        old = present.text[present.words[found[0]].start : present.words[found[-1]].end]
        written = self.replacement if self.degree == 1 else f"{old} {self.replacement}"
        swap = WordSwap(self.words, written, self.occurrence)
        return swap.rewrite(draft, present, index, read) if self.degree else draft

    def injects(self, span: Span) -> bool:
        return True

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        mapper, share = words.mapper.double(), torch.ones_like(words.held, dtype=torch.float64)
        for span in words.spans if self.degree < 1 else ():
            if span.edit == words.index:
                tokens = [words.edited.words[j].tokens for j in span.edited]
                old = len(split_words(self.words))
                for part, degree in ((tokens[:old], 1 - self.degree), (tokens[old:], self.degree)):
                    columns = [token for word in part for token in word]
                    share[columns] = degree
                    mapper[:, columns] *= len([*chain(*tokens)]) / len(columns)  # was laid on both
        return before.holding(mapper, alpha * words.held).scaled(share)
