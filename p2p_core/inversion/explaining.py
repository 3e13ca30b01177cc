"""How well a prompt explains an image: what a model leaves open of it with the prompt and without.

An image with noise over it is asked for by both texts (as in Li et al. 2023, whose classifier takes
the text that leaves less). What the negative text leaves open and the source text does not, the
prompt has explained; a prompt with mistakes leaves as much or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .task import Draw, Task

LEVELS = 4
"""How many of a schedule's levels are looked at, of two evaluations each."""

GOOD, FAIR = 0.05, 0.0
"""Parts that a prompt explains. On the demo models, denoise 0.7, right captions explain about 0.2,
the same cut short 0.1, most of those with a wrong word less than the empty text."""


def explained(task: Task, draw: Draw, levels: int = LEVELS) -> tuple[float, ...]:
    """Measure what part of the negative text's residual the source text explains, per image.

    A residual is the mean squared distance from the image to what the network makes of it under
    noise; the part is the mean over at most `levels` steps, evenly spread over the schedule. 1 is
    all of it; 0 or less, nothing, and −1 the least that a step counts as.
    """
    steps = len(task.steps)
    chosen = sorted({(2 * n + 1) * steps // (2 * levels) for n in range(levels)})
    parts = list[Tensor]()
    with torch.no_grad():
        for n in chosen:
            sigma, _ = task.steps[n]
            x = task.space.noised(task.latent, draw(task.latent, n).to(task.latent), sigma)
            source, uncond = (
                (image - task.latent).square().flatten(1).mean(1)
                for image in task.denoise(x, sigma, task.source, task.negative)
            )
            open_before = uncond.clamp(min=torch.finfo(uncond.dtype).tiny)
            parts.append(((uncond - source) / open_before).clamp(min=-1))
    return tuple(torch.stack(parts).mean(0).tolist())


def verdict(parts: Sequence[float]) -> str:
    """good, fair or poor: how well the worst of some images is explained.

    >>> verdict([0.4, 0.2]), verdict([0.4, 0.01]), verdict([-0.2])
    ('good', 'fair', 'poor')
    """
    worst = min(parts)
    return "good" if worst >= GOOD else "fair" if worst >= FAIR else "poor"
