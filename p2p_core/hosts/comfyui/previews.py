"""The picture that the host shows while it samples: source and edits side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from ...controller import Rows

Callback = Callable[[int, Tensor, Tensor, int], Any]
"""Told of each step: its number, the denoised latents, the noisy ones, and how many steps."""


def side_by_side(callback: Callback, rows: Rows) -> Callback:
    """Let a callback that shows the first latent of a batch show all rows of a run instead.

    It gets one latent with each source on a line of its own, its edits to the right of it.
    """

    def told(step: int, denoised: Tensor, noisy: Tensor, steps: int) -> Any:
        return callback(step, joined(denoised, rows), noisy, steps)

    return told


def joined(latents: Tensor, rows: Rows) -> Tensor:
    """Join a run's latents, [rows channels ... height width], to one.

    >>> import torch
    >>> latents = torch.arange(4.0).view(4, 1, 1, 1)  # two sources, then their edits
    >>> joined(latents, Rows(sources=2, edits=1))[0, 0]
    tensor([[0., 2.],
            [1., 3.]])
    """
    return rearrange(
        latents,
        "(prompts sources) channels ... h w -> 1 channels ... (sources h) (prompts w)",
        sources=rows.sources,
    )
