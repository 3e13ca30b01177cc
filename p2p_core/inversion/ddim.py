"""DDIM inversion: the sampler's steps backwards, from the image to noise; Euler's on flow models.

Paper section 4 ("Real Image Editing"); Song et al. 2020, Dhariwal & Nichol 2021. The network is
asked at the level that a step goes to, about the latent of the level that it comes from, as the
authors' code does. That is one fixed-point iteration of the equation that undoes a sampling step
exactly; more of them (Pan et al. 2023, AIDI) come closer to its solution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .task import Found, Progress, Task


def invert(task: Task, iterations: int = 0) -> Found:
    """Walk from the image to noise with the source text alone, without guidance.

    `iterations` of fixed-point refinement are made after each plain step: one evaluation each.
    Raises `ValueError` if they are negative.
    """
    return Found(walk(task, iterations)[0])


def walk(task: Task, iterations: int) -> tuple[Tensor, Tensor]:
    """Walk as `invert` does: every level's latents, and where the network was last asked for them.

    float[levels images channels height width] and float[steps …], from the noisiest level on.
    """
    if iterations < 0:
        raise ValueError(f"Expected 0 or more fixed-point iterations, got {iterations}.")
    x, c_in = task.latent, task.space.c_in
    levels, asked = [x], list[Tensor]()
    with torch.no_grad():
        for n, (sigma, sigma_next) in enumerate(reversed(task.steps), 1):
            there = noisier = x * (c_in(sigma_next) / c_in(sigma))
            for _ in range(1 + iterations):
                there = noisier
                noisier = x + (sigma - sigma_next) * task.slope(there, sigma, task.source)
            x = noisier
            levels.append(x)
            asked.append(there)
            task.watch(Progress(n, len(task.steps), task.latent))
    return torch.stack(levels[::-1]), torch.stack(asked[::-1])
