"""Prompt refinement: the edited prompt as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..alignment import Draft, Span, revise
from ..schedules import Schedule, Window
from ..tokens import Prompt, shortened
from .base import Aligned, Joint, Read, SelfInjection
from .map_edit import MapEdit


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
    joint: Joint = field(default_factory=Joint)
    holds: bool = field(default=True, init=False)
    tokenwise: bool = field(default=True, init=False)
    phrases: tuple[str, ...] = field(default=(), init=False)

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        """Raises `ValueError` if there are no words in the edited prompt."""
        if not self.prompt.strip():
            raise ValueError(
                f"Expected the edited prompt, got {self.prompt!r}. Write it out in full, "
                f"such as the source prompt {shortened(present.text)!r} with a word added."
            )
        return revise(draft, present, read(self.prompt.strip()), index)

    def injects(self, span: Span) -> bool:
        return self.inject_swapped

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        return before.holding(words.mapper, alpha * words.held)
