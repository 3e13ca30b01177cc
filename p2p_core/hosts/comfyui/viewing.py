"""Word maps of a run that is over: it is sampled again, looked at this time.

A run is a function of its inputs, so doing it again gives the same images; looking at words costs
nothing until somebody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...attention_maps import Seen
from ...controller import Rows
from ...local_blend import chosen_side
from ...schedules import Window
from ...viewing import Viewing
from .conditioning import EncodedController
from .families import family_of
from .sampling import Result, sample


@dataclass(frozen=True)
class Run:
    """A sampling run as a value: `sample` with all its arguments."""

    model: Any
    encoded: EncodedController
    latent: dict[str, Any]
    sample: partial[Result]

    @classmethod
    def of(cls, model: Any, encoded: EncodedController, latent: dict[str, Any], **rest: Any) -> Run:
        """Of `sampling.sample`'s arguments."""
        return cls(model, encoded, latent, partial(sample, model, encoded, latent=latent, **rest))

    @property
    def rows(self) -> Rows:
        return Rows(self.latent["samples"].shape[0], len(self.encoded.controller.branches))


def look(run: Run, words: Sequence[str], side: float | None, window: Window) -> list[Seen]:
    """The maps of words, of all where none is named, row by row; a row without the word is skipped.

    `side` chooses the layers, see `local_blend.chosen_side`; `window` the steps. Raises
    `ValueError` for a word in none of the prompts, for layers that the model lacks and for a window
    in which there is no step.
    """
    smallest = min(run.latent["samples"].shape[-2:])
    chosen = chosen_side(family_of(run.model).sides, smallest, side)
    viewing = Viewing.of(run.encoded.controller, run.rows, words, chosen)
    run.sample(maps=(viewing.maps,))
    return viewing.seen(window)
