"""Null-text optimisation: the negative embedding that leads guided sampling along the inversion.

Mokady et al. 2023, section 3: a DDIM inversion without guidance is the pivot, and for each step the
"null" embedding is optimised so that the guided step from where sampling is ends on the pivot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from . import ddim
from .task import Found, Progress, Task


@dataclass(frozen=True)
class Schedule:
    """How hard to try: at most so many inner steps, less once a step's loss is small enough.

    Adam with a learning rate that falls by a hundredth of it each step, until the mean squared
    distance to the pivot, of latents as the network sees them, was below `early_stop` ·
    (1 + 2 · step) before an inner step, steps counting from 0: as the authors' code, an inner step
    is taken before its loss is looked at. `REFERENCE` is the authors' schedule; the default takes
    fewer and larger steps, which end no farther from the pivot.
    """

    inner_steps: int = 4
    learning_rate: float = 3e-2
    early_stop: float = 1e-6

    def __post_init__(self) -> None:
        if self.inner_steps < 0:
            raise ValueError(f"Expected 0 or more inner steps, got {self.inner_steps}.")
        if not (0 < self.learning_rate < inf and 0 <= self.early_stop < inf):
            raise ValueError(
                "Expected a positive learning rate and an early stop of 0 or more, got "
                f"{self.learning_rate:g} and {self.early_stop:g}."
            )

    def rate(self, step: int, steps: int) -> float:
        """Compute the learning rate of a step, counted from 0; positive however many there are."""
        return self.learning_rate * (1 - step / max(100, steps))


REFERENCE = Schedule(inner_steps=10, learning_rate=1e-2, early_stop=1e-5)


IMPASSABLE = (
    "modified by an inplace operation",
    "through the graph a second time",
    "no autograd formula was registered",
)
"""What PyTorch says of a network that is to blame, or its patches."""


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
    return replace(pivot, null_embeddings=optimise(part(walk), pivot.trajectory, schedule))


def optimise(task: Task, pivot: Tensor, schedule: Schedule) -> Tensor:
    """Optimise the null tokens, float[steps images tokens channels], that lead along the pivot.

    `pivot` is float[levels images channels height width]. Every image is optimised by itself, and
    every step begins with the tokens that the step before it found. Raises `ValueError` for a loss
    that is not finite, and for patches of the network that no gradient can pass.
    """
    x, found = pivot[0], task.negative.tokens.to(pivot.dtype)
    null_embeddings: list[Tensor] = []
    total = len(task.steps) * schedule.inner_steps
    for n, (sigma, sigma_next) in enumerate(task.steps):
        with torch.no_grad():
            (source,) = task.denoise(x, sigma, task.source)
        null = found.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=schedule.rate(n, len(task.steps)))
        enough = schedule.early_stop * (1 + 2 * n)
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for inner in range(schedule.inner_steps):
            with torch.enable_grad():
                slope = task.guided(x, sigma, replace(task.negative, tokens=null), source)
            if not slope.requires_grad:  # guidance of 1 leaves the null text out
                break
            seen, c_in = slope.detach(), task.space.c_in(sigma_next)
            miss = (x + (sigma_next - sigma) * seen - pivot[n + 1]) * c_in
            losses = miss.square().flatten(1).mean(1)
            _check(losses, n, schedule)
            progress = Progress(n * schedule.inner_steps + inner, total, x - sigma * seen)
            task.watch(replace(progress, loss=float(losses.mean())))
            before = null.detach().clone()
            rate = 2 * (sigma_next - sigma) * c_in / miss[0].numel()
            null.grad = gradient(slope, null, rate * miss)
            adam.step()
            with torch.no_grad():
                null[done] = before[done]
            done |= losses < enough
            if done.all():
                break
        found = null.detach()
        null_embeddings.append(found)
        with torch.no_grad():
            slope = task.guided(x, sigma, replace(task.negative, tokens=found), source)
            x = x + (sigma_next - sigma) * slope
    return torch.stack(null_embeddings)


def _check(losses: Tensor, step: int, schedule: Schedule) -> None:
    """Raises `ValueError` for a loss that is not finite."""
    if not torch.isfinite(losses).all():
        raise ValueError(
            f"Expected a finite loss of the null texts, got {losses.tolist()} at step {step + 1}. "
            f"Take a learning rate below {schedule.learning_rate:g}, or run the model in fp32 or "
            "bf16: half precision may have overflowed."
        )


def gradient(output: Tensor, null: Tensor, direction: Tensor) -> Tensor:
    """Compute ∂⟨output, direction⟩/∂null for each row, the direction taken at unit size.

    Half precision loses small gradients without a word; Adam does not mind their scale, and so they
    go through the network as large as can be. Raises `ValueError` for a network with patches that
    no gradient can pass.
    """
    size = direction.abs().amax(dim=tuple(range(1, direction.ndim)), keepdim=True)
    unit = direction / size.clamp(min=torch.finfo(direction.dtype).tiny)
    try:
        (gradient,) = torch.autograd.grad(output, null, unit)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in IMPASSABLE):
            raise
        raise ValueError(
            "Expected a model that gradients can pass, got one, or a patch on it, that changes "
            f"tensors in place, keeps them from call to call or has no gradient ({error}). Take "
            "such patches off the model for null-text inversion, or invert by another method."
        ) from error
    return gradient * size.view(-1, *[1] * (gradient.ndim - 1))
