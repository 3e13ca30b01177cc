"""Noise and denoise: the image with noise added at every level, as in image-to-image sampling.

The paper's naive approach (section 4, figure 12): the layout comes through as far as the noise
leaves it, so it wants a schedule that begins late and a local blend that restores the background.
"""

from __future__ import annotations

import torch

from .task import Found, Task


def invert(task: Task, noise: torch.Tensor) -> Found:
    """The image + σ · noise at every level; `noise` is float[images channels height width]."""
    levels = [task.latent + sigma * noise.to(task.latent) for sigma in task.sigmas]
    return Found(torch.stack(levels), put_back=True)
