"""Where a run's images look at words: what to look at, and what was seen (paper figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .attention_maps import Seen, WordMaps, check_sharpen, indicator
from .controller import Controller, Rows
from .schedules import Window
from .tokens import shortened


@dataclass(frozen=True)
class Viewing:
    """Words to look at in the rows of a run; `maps` go along with it and are read afterwards."""

    maps: WordMaps
    named: tuple[tuple[int, str, int], ...]
    """(row, word, which of the looks it is), row by row, words in the order they were met."""

    @classmethod
    def of(
        cls, controller: Controller, rows: Rows, words: Sequence[str], side: float, sharpen: int = 0
    ) -> Viewing:
        """Look at these words, at all where none is named; a row without a word is skipped.

        `side` are the layers, as a fraction of the latent's side, and `sharpen` how often their
        maps are sharpened. Raises `ValueError` for a word in none of the prompts, where there is no
        word at all, and for a `sharpen` out of range.
        """
        check_sharpen(sharpen)
        columns = torch.zeros(rows.total, 1, controller.length)
        named: list[tuple[int, str, int]] = []
        looks: dict[str, int] = {}
        for block, prompt in zip(rows.blocks, controller.prompts, strict=True):
            present = {word.text.casefold(): word.text for word in prompt.words}
            for word in words or present.values():
                if word not in prompt:
                    continue
                found = indicator(prompt, [word])
                at = looks.setdefault(word.casefold(), len(looks))
                if at >= columns.shape[1]:
                    columns = torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)
                repeated = controller.fitted(found)
                columns[block, at] = repeated
                named += [(row, word, at) for row in range(rows.total)[block]]
        named.sort(key=lambda one: one[0])
        texts = " and ".join(repr(shortened(prompt.text)) for prompt in controller.prompts)
        if not words and not named:
            raise ValueError(
                f"Expected a prompt with words to look at, got {texts}. Describe the image."
            )
        for word in words:
            if word.casefold() not in looks:
                near = next(filter(None, (p.nearest(word) for p in controller.prompts)), None)
                raise ValueError(
                    f"{word!r} is in none of the prompts. Did you mean {near!r}?"
                    if near
                    else f"{word!r} is in none of the prompts {texts}. Choose words of one."
                )
        return cls(WordMaps(columns, side, by_step=True, sharpen=sharpen), tuple(named))

    def seen(self, window: Window) -> list[Seen]:
        """Collect what was seen in a window of steps; raises `ValueError` if it holds no step."""
        mean = self.maps.mean(window)
        within = [
            (number, total / count)
            for number, (here, (total, count)) in enumerate(sorted(self.maps.sums.items()), 1)
            if window.weight(here)
        ]
        numbers = tuple(number for number, _ in within)
        steps = torch.stack([maps for _, maps in within])
        return [
            Seen(row, word, mean[row, at], steps[:, row, at], numbers)
            for row, word, at in self.named
        ]


def row_names(rows: Rows) -> list[str]:
    """Name every row of a run: source, edit 1, edit 2, numbered where there are several sources.

    >>> row_names(Rows(2, 1))
    ['source 1', 'source 2', 'edit 1 of 1', 'edit 1 of 2']
    >>> row_names(Rows(1, 2))
    ['source', 'edit 1', 'edit 2']
    """
    several = rows.sources > 1
    sources = [f"source {n}" if several else "source" for n in range(1, rows.sources + 1)]
    edits = [
        f"edit {edit} of {n}" if several else f"edit {edit}"
        for edit in range(1, rows.edits + 1)
        for n in range(1, rows.sources + 1)
    ]
    return sources + edits
