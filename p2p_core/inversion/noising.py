"""The image with noise added at every level, as image-to-image sampling adds it.

One noise for all levels is the paper's naive approach (section 4, figure 12): the layout comes
through as far as the noise leaves it, so it wants a schedule that begins late and a local blend
that restores the background.

A noise of its own for each level is edit-friendly DDPM inversion (Huberman-Spiegelglas et al.
2024). What they keep for each step of an ancestral sampler, the noise that takes the source from
one level to the next, is here the distance of the source's step from its trajectory. An edited row
takes it too, which is what a shared trajectory means; the sampler's own noise, the same for all
rows, cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .task import Found, Task


def invert(task: Task, noise: Tensor) -> Found:
    """Lay noise over the image at every level; it is float[images channels height width]."""
    return Found(_noised(task, [noise] * len(task.sigmas)), restore_source=True)


def invert_edit_friendly(task: Task, noises: Sequence[Tensor]) -> Found:
    """Lay noise over it, another per level: float[images channels height width] each."""
    return Found(_noised(task, noises), restore_source=True, shared=True)


def _noised(task: Task, noises: Sequence[Tensor]) -> Tensor:
    return torch.stack(
        [
            task.space.noised(task.latent, noise.to(task.latent), sigma)
            for sigma, noise in zip(task.sigmas, noises, strict=True)
        ]
    )
