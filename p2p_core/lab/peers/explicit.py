"""Prompt-to-Prompt by explicit attention maps, as diffusers' community pipeline makes it.

Every map is made, those of up to 32×32 pixels are stored and summed over the steps, the edited
row's are replaced, and all are multiplied out. To be measured beside, not to be used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...hosts.diffusers.attention import project_in, project_out

STORED = 32**2
"""Pixels of the largest layers whose maps the pipeline stores."""
REPLACED = 16**2
"""Pixels of the largest layers whose self-attention the pipeline replaces."""


class Store:
    """Maps of a step, and their sums over the steps, as the pipeline keeps them."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.seen = 0
        self.step: list[Tensor] = []
        self.total: list[Tensor] = []

    def take(self, maps: Tensor) -> None:
        if maps.shape[1] <= STORED:
            self.step.append(maps)

    def after_layer(self) -> None:
        self.seen += 1
        if self.seen % self.layers:
            return
        if self.total:
            for total, maps in zip(self.total, self.step, strict=True):
                total += maps
        else:
            self.total = self.step
        self.step = []


class Explicit:
    """An attention layer that makes its maps and gives the edited row the source's."""

    def __init__(self, store: Store, mapper: Tensor, cross: bool) -> None:
        self.store, self.mapper, self.cross = store, mapper, cross

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        return by_maps(attn, hidden_states, encoder_hidden_states, attention_mask, self.replace)

    def replace(self, maps: Tensor) -> None:
        """Keep the maps of both rows and put the source's in the edited row's place."""
        conditional = maps[len(maps) // 2 :]
        self.store.take(conditional)
        source, edited = conditional.chunk(2)
        if self.cross:
            edited.copy_(source @ self.mapper)
        elif maps.shape[1] <= REPLACED:
            edited.copy_(source)
        self.store.after_layer()


def by_maps(
    attn: Any,
    hidden_states: Tensor,
    text: Tensor | None,
    attention_mask: Tensor | None,
    change: Callable[[Tensor], None],
) -> Tensor:
    """Run a layer's attention with its maps made, float[rows·heads pixels tokens], and changed."""
    q, k, v = map(attn.head_to_batch_dim, project_in(attn, hidden_states, text))
    maps = attn.get_attention_scores(q, k, attention_mask)
    change(maps)
    return project_out(attn, attn.batch_to_head_dim(torch.bmm(maps, v)))
