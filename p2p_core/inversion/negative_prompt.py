"""Negative-prompt inversion: the source text in the negative's place.

Miyake et al. 2023: what null-text optimisation would find is near the source text itself, so
guidance of the source row is none at all and it runs back along its own inversion. Han et al. 2023
(proximal guidance) leave out the small differences between edited and source text, which are noise.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from . import ddim
from .task import Found, Task


def invert(task: Task, iterations: int = 0) -> Found:
    """Invert by DDIM for sampling against the source's own text; errors as `ddim.invert`."""
    return replace(ddim.invert(task, iterations), source_as_negative=True)


def proximal(difference: Tensor, quantile: float) -> Tensor:
    """Leave out the smaller part of each row's guidance difference, float[rows ...].

    Soft threshold at the `quantile`, 0–1, of its absolute values: Han et al. 2023, the L1 variant.

    >>> proximal(torch.tensor([[-4.0, 1.0, 2.0, -3.0, 0.0]]), quantile=0.5)
    tensor([[-2.,  0.,  0., -1.,  0.]])
    """
    size = difference.abs().flatten(1)
    level = torch.quantile(size.float(), quantile, dim=1).to(difference)
    level = level.view(-1, *[1] * (difference.ndim - 1))
    return difference.sign() * (difference.abs() - level).clamp(min=0)
