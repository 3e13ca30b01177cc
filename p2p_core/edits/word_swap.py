"""Word swap: other words in the place of some."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..alignment import Draft, Span
from ..schedules import Schedule, Window
from ..tokens import Prompt, parted, split_words
from .base import Aligned, Joint, Read, SelfInjection
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
    joint: Joint = field(default_factory=Joint)
    holds: bool = field(default=True, init=False)
    tokenwise: bool = field(default=False, init=False)
    phrases: tuple[str, ...] = field(default=(), init=False)

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        """Write the replacement, set apart from words that it would run into.

        Raises `ValueError` if the words are not in the present text, as `Prompt.place` does, and
        for a replacement that makes a weight of what was none, or text of a weight.
        """
        text = self.replacement.strip()
        place = present.place(present.find(self.words, self.occurrence), emptied=not text)
        before, after = present.text[: place.start], present.text[place.stop :]
        text = _gap(before, text) + text
        text += _gap(before + text, after)
        draft = draft.replace(place.start, place.stop, text, index)
        written = read(draft.text)
        if present.brackets or written.brackets:
            left, _ = present.divided(place)
            kept, new = written.divided(range(place.start, place.start + len(text)))
            if left != kept or (text.strip() and not new):
                raise ValueError(
                    f"Expected a replacement that leaves the prompt's other words and their "
                    f"weights as they are, got {self.replacement!r}, which makes "
                    f"{parted(present.text, draft.text)[1]!r} of it. Write brackets in pairs, "
                    "those meant as such as \\( and \\)."
                )
        return draft

    def injects(self, span: Span) -> bool:
        return True

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        return before.holding(words.mapper, alpha * words.held)


def _gap(before: str, after: str) -> str:
    """A space where the words of two texts would run into one word."""
    apart = len(split_words(before)) + len(split_words(after))
    return " " if len(split_words(before + after)) < apart else ""
