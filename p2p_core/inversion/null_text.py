"""Null-text optimisation: the negative embedding that leads guided sampling along the inversion.

Mokady et al. 2023, section 3: a DDIM inversion without guidance is the pivot, and for each step the
"null" embedding is optimised so that the guided step from where sampling is ends on the pivot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import ddim
from .task import Found, Progress, Task, preserving


@dataclass(frozen=True)
class Schedule:
    """How hard to try: at most so many inner steps, less once a step's loss is small enough.

    Adam with a learning rate that falls by a hundredth of it each step, until the mean squared
    distance to the pivot, of latents as diffusion models see them, is below `early_stop` ·
    (1 + 2 · step), steps counting from 0. `REFERENCE` is the authors' schedule; the default takes
    fewer and larger steps, which end no farther from the pivot.
    """

    inner_steps: int = 4
    learning_rate: float = 3e-2
    early_stop: float = 1e-6

    def __post_init__(self) -> None:
        if self.inner_steps < 0:
            raise ValueError(f"Expected 0 or more inner steps, got {self.inner_steps}.")
        if self.learning_rate <= 0 or self.early_stop < 0:
            raise ValueError(
                "Expected a positive learning rate and an early stop of 0 or more, got "
                f"{self.learning_rate:g} and {self.early_stop:g}."
            )


REFERENCE = Schedule(inner_steps=10, learning_rate=1e-2, early_stop=1e-5)


def invert(task: Task, schedule: Schedule | None = None, iterations: int = 0) -> Found:
    """Invert, then find the null tokens of every step; errors as `ddim.invert`."""
    schedule = schedule or Schedule()
    walk = len(task.steps)
    total = walk * (1 + schedule.inner_steps)

    def part(begin: int) -> Task:
        def watch(progress: Progress) -> None:
            task.watch(replace(progress, done=begin + progress.done, total=total))

        return replace(task, watch=watch)

    pivot = ddim.invert(part(0), iterations)
    return replace(pivot, nulls=optimise(part(walk), pivot.trajectory, schedule))


def optimise(task: Task, pivot: Tensor, schedule: Schedule) -> Tensor:
    """The null tokens, float[steps images tokens channels], that lead along the pivot.

    `pivot` is float[levels images channels height width]. Every image is optimised by itself, and
    every step begins with the tokens that the step before it found.
    """
    x, found = pivot[0], task.negative.tokens.float()
    nulls: list[Tensor] = []
    total = len(task.steps) * schedule.inner_steps
    for n, (sigma, low) in enumerate(task.steps):
        with torch.no_grad():
            source = task.noise(x, sigma, task.source)
        null = found.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=schedule.learning_rate * (1 - n / 100))
        enough = schedule.early_stop * (1 + 2 * n)
        sway = (low - sigma) * (1 - task.guidance)
        """∂(where the step ends)/∂(the noise against the null text)."""
        for inner in range(schedule.inner_steps if sway else 0):
            with torch.enable_grad():
                against = task.noise(x, sigma, replace(task.negative, tokens=null))
            with torch.no_grad():
                end = _step(task, x, sigma, low, source, against)
                image = _step(task, x, sigma, 0, source, against)
            miss = (end - pivot[n + 1]) / preserving(low)
            losses = miss.square().flatten(1).mean(1)
            loss = float(losses.mean())
            task.watch(Progress(n * schedule.inner_steps + inner, total, image, loss))
            done = losses < enough
            if done.all():
                break
            before = null.detach().clone()
            slope = 2 * sway / preserving(low) / miss[0].numel()
            null.grad = gradient(against, null, slope * miss)
            adam.step()
            with torch.no_grad():
                null[done] = before[done]
        found = null.detach()
        nulls.append(found)
        with torch.no_grad():
            against = task.noise(x, sigma, replace(task.negative, tokens=found))
            x = _step(task, x, sigma, low, source, against)
    return torch.stack(nulls)


def gradient(output: Tensor, null: Tensor, direction: Tensor) -> Tensor:
    """∂⟨output, direction⟩/∂null for each row, the direction taken at unit size.

    Half precision loses small gradients without a word; Adam does not mind their scale, and so they
    go through the network as large as can be.
    """
    size = direction.abs().amax(dim=tuple(range(1, direction.ndim)), keepdim=True)
    unit = direction / size.clamp(min=torch.finfo(direction.dtype).tiny)
    (gradient,) = torch.autograd.grad(output, null, unit)
    return gradient * size.view(-1, *[1] * (gradient.ndim - 1))


def _step(
    task: Task, x: Tensor, sigma: float, low: float, source: Tensor, against: Tensor
) -> Tensor:
    """The guided step from x."""
    return x + (low - sigma) * (against + task.guidance * (source - against))
