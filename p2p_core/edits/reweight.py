"""Attention re-weighting: words turned up and down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from ..alignment import Draft, Span
from ..schedules import Schedule, Window
from ..tokens import Prompt
from .base import AUTOMATIC, Aligned, Joint, Read, SelfInjection
from .map_edit import MapEdit

FACTORS_ACT = {AUTOMATIC: None, "after the softmax": False, "before the softmax": True}
"""What users call it, and `Reweight.renormalised`."""


@dataclass(frozen=True)
class Reweight:
    """Turn words of the edited prompt up or down: their attention is multiplied with a factor.

    `weights` are phrases with their factors, any real number: 1 leaves a word as it is, 0 takes its
    attention away, negative ones turn it round. Without a schedule it acts as long as the other
    edits of its chain hold the source's attention, or all through where there are none; alone it
    holds that attention itself. Paper section 4, attention re-weighting (fader control).

    `renormalised`: whether a pixel's attention sums to what it did before, as if the factors acted
    before the softmax; None: as the paper has it where text has a softmax of its own, and
    renormalised where it shares one with the image and no factor is negative.
    """

    weights: tuple[tuple[str, float], ...]
    schedule: Schedule | None = None
    self_injection: SelfInjection = field(default_factory=lambda: SelfInjection(Window(0.0, 0.4)))
    joint: Joint = field(default_factory=Joint)
    renormalised: bool | None = None
    holds: bool = field(default=False, init=False)
    tokenwise: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(
                "Expected at least one word with its factor, got none. "
                "Write such as 'fluffy: 2', one a line."
            )
        if self.renormalised and any(factor < 0 for _, factor in self.weights):
            raise ValueError(
                "Expected factors of 0 or more to renormalise, got a negative one. Before a "
                "softmax there is none: leave renormalising out."
            )
        for phrase, factor in self.weights:
            if not isfinite(factor):
                raise ValueError(
                    f"Expected a finite factor for {phrase!r}, got {factor:g}. "
                    "Write a number such as 2; 0 takes the word's attention away."
                )

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        return draft

    def injects(self, span: Span) -> bool:
        return True

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(phrase for phrase, _ in self.weights)

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        held = before.holding(words.mapper, alpha * words.held)
        return held.equalized(1 + alpha * (equalizer(words.edited, self.weights) - 1))


def equalizer(edited: Prompt, weights: Sequence[tuple[str, float]]) -> Tensor:
    """Make what each token's attention is multiplied with: float64[edited_tokens].

    Raises `ValueError` for a phrase that the edited prompt lacks.
    """
    equalizer = torch.ones(edited.length, dtype=torch.float64)
    for phrase, factor in weights:
        equalizer[edited.tokens_of(phrase)] *= factor
    return equalizer
