"""Word swap: other words in the place of some."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..alignment import Draft, Span
from ..schedules import Schedule, Window
from ..tokens import Prompt, split_words
from .base import Aligned, SelfInjection
from .map_edit import MapEdit


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
    phrases: tuple[str, ...] = field(default=(), init=False)

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

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        return before.holding(words.mapper, alpha * words.held)


def _gap(before: str, after: str) -> str:
    """A space where the words of two texts would run into one word."""
    apart = len(split_words(before)) + len(split_words(after))
    return " " if len(split_words(before + after)) < apart else ""
