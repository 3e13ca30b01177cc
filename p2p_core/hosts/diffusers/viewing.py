"""Word maps in diffusers, of a run that is looked at while it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...attention_maps import Seen
from ...controller import Chain, Controller, Rows
from ...local_blend import chosen_side
from ...schedules import Window
from ...viewing import Viewing
from .pipeline import Model
from .sampling import Result, sample


def sample_and_look(
    model: Model,
    prompt: str,
    chains: Sequence[Chain],
    latent: Tensor,
    words: Sequence[str],
    side: float | None = None,
    sharpen: int = 0,
    **rest: Any,
) -> tuple[Result, list[Seen]]:
    """Sample as `sampling.sample`, and map where rows look at words, all where none is named.

    `side` chooses the layers, see `local_blend.chosen_side`; `sharpen` is how often self-attention
    sharpens maps. Raises `ValueError` for a word in none
    of the prompts and for layers that the model lacks.
    """
    chosen = chosen_side(model.sides, min(latent.shape[-2:]), side)
    views: list[Viewing] = []

    def look(controller: Controller, rows: Rows) -> list[Any]:
        views.append(Viewing.of(controller, rows, words, chosen, sharpen))
        return [views[0].maps]

    result = sample(model, prompt, chains, latent, maps=look, **rest)
    return result, views[0].seen(Window())
