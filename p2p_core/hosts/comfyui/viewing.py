"""Word maps of a run that is over: it is sampled again, looked at this time.

A run is a function of its inputs, so doing it again gives the same images; looking at words costs
nothing until somebody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...attention_maps import Seen, WordMaps
from ...controller import Rows
from ...local_blend import chosen_side
from ...schedules import Window
from ...viewing import Viewing
from .conditioning import EncodedController
from .families import family_of


class Again(Protocol):
    """Samples a run once more."""

    def __call__(self, *, maps: tuple[WordMaps, ...]) -> object:
        """Do so, with word maps that are filled while it lasts."""
        ...


@dataclass(frozen=True)
class Run:
    """A sampling run that is over: what it was of, and a way to do it again."""

    model: Any
    encoded: EncodedController
    latent: dict[str, Any]
    again: Again

    @property
    def rows(self) -> Rows:
        return Rows(self.latent["samples"].shape[0], len(self.encoded.controller.branches))


def look(
    run: Run, words: Sequence[str], side: float | None, window: Window, sharpen: int = 0
) -> list[Seen]:
    """Map where rows look at words, all where none is named; a row without the word is skipped.

    `side` chooses the layers, see `local_blend.chosen_side`; `window` the steps; `sharpen` is how
    often self-attention sharpens maps. Raises `ValueError` for a word in none of the prompts, for
    layers that the model lacks and for a window in which there is no step.
    """
    smallest = min(run.latent["samples"].shape[-2:])
    chosen = chosen_side(family_of(run.model).sides, smallest, side)
    viewing = Viewing.of(run.encoded.controller, run.rows, words, chosen, sharpen)
    run.again(maps=(viewing.maps,))
    return viewing.seen(window)
