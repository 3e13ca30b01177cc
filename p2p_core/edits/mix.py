"""Mix: a word swap by degree."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..alignment import Draft, Span
from ..schedules import Schedule, Window
from ..tokens import Prompt, split_words
from .base import Aligned, Joint, Read, SelfInjection
from .map_edit import MapEdit
from .word_swap import WordSwap


@dataclass(frozen=True)
class Mix:
    """Put words beside the old ones: attention and values are (1 − degree) old and degree new.

    0 is the source's prompt, 1 a word swap; `ValueError` for other degrees and for no new words.
    """

    words: str
    replacement: str
    degree: float = 0.5
    occurrence: int = 1
    schedule: Schedule = field(default_factory=lambda: Schedule(Window(0.0, 0.8)))
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    joint: Joint = field(default_factory=Joint)
    holds, tokenwise = True, False

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 1:
            raise ValueError(f"Expected a degree from 0 (old) to 1 (new), got {self.degree:g}.")
        if self.degree < 1 and not split_words(self.replacement):
            raise ValueError("Expected words to mix in, got none. Write a replacement.")

    @property
    def phrases(self) -> tuple[str, ...]:
        return (self.replacement,) if 0 < self.degree < 1 else ()

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        old = present.place(present.find(self.words, self.occurrence), emptied=False)
        both = f"{present.text[slice(old.start, old.stop)]} {self.replacement}" * (self.degree < 1)
        swap = WordSwap(self.words, both or self.replacement, self.occurrence)
        draft = swap.rewrite(draft, present, index, read) if self.degree else draft
        return draft.divided(old.stop, old.start + len(both)) if self.degree and both else draft

    def injects(self, span: Span) -> bool:
        return True

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        mapper, share, held = words.mapper.double(), alpha.new_ones(alpha.shape), words.held.clone()
        old, new = words.written(inserted=False), words.written(inserted=True)
        if new:  # they take as much of the source's attention as the words they stand beside
            mapper[:, new] = mapper[:, old].sum(1, keepdim=True) / len(new)
            share[old], share[new], held[new] = 1 - self.degree, self.degree, 1.0
        return before.holding(mapper, alpha * held).scaled(share)
