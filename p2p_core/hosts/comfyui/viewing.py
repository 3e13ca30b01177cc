"""Word maps of a run that is over: it is sampled again, looked at this time.

A run is a function of its inputs, so doing it again gives the same images; looking at words costs
nothing until somebody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...attention_maps import Seen, WordMaps, indicator
from ...controller import Rows
from ...local_blend import chosen_side
from ...schedules import Window
from .attention import cross_attention_sides
from .conditioning import EncodedController
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
    controller, rows = run.encoded.controller, run.rows
    columns = torch.zeros(rows.total, 1, controller.length)
    named: list[tuple[int, str, int]] = []
    looks: dict[str, int] = {}
    for block, prompt in enumerate(controller.prompts, -1):
        present = {word.text.casefold(): word.text for word in prompt.words}
        for word in words or present.values():
            try:
                found = indicator(prompt, [word])
            except ValueError:
                continue
            at = looks.setdefault(word.casefold(), len(looks))
            if at >= columns.shape[1]:
                columns = torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)
            columns[list(rows.block(block)), at] = found.repeat(controller.length // prompt.length)
            named += [(row, word, at) for row in rows.block(block)]
    named.sort(key=lambda one: one[0])  # row by row, words in the order they were met
    for word in words:
        if word.casefold() not in looks:
            texts = " and ".join(repr(prompt.text) for prompt in controller.prompts)
            raise ValueError(
                f"{word!r} is in none of the prompts {texts}. Choose words that are in one."
            )
    smallest = min(run.latent["samples"].shape[-2:])
    chosen = chosen_side(cross_attention_sides(run.model), smallest, side)
    maps = WordMaps(columns, chosen, by_step=True)
    run.sample(maps=(maps,))
    mean = maps.mean(window)
    steps = torch.stack(
        [total / count for here, (total, count) in sorted(maps.sums.items()) if window.weight(here)]
    )
    return [Seen(row, word, mean[row, at], steps[:, row, at]) for row, word, at in named]
