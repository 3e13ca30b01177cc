"""A scheduler of diffusers, set to a run's steps, and how noise lies over its latents.

Diffusion adds noise to the image, x = image + σ · noise; flow matching goes from one to the other
on a straight line, x = (1 − σ) · image + σ · noise.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import isclose
from typing import Any, Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ...inversion.task import DIFFUSION, FLOW, c_in
from .flow import FlowModel
from .pipeline import Model
from .settings import SAMPLERS, Settings


class Course(Protocol):
    """From noise to image in steps."""

    @property
    def levels(self) -> list[float]:
        """The noise levels, falling to 0: one more than there are steps."""
        ...

    def begin(self, image: Tensor, noise: Tensor) -> Tensor:
        """Lay noise over an image as sampling begins with it, in the sampler's space."""
        ...

    def noised(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Lay noise over an image as it is at a level."""
        ...

    def step(self, n: int, prediction: Tensor, x: Tensor, **extra: Any) -> Tensor:
        """Take step n with what the network predicts at its level."""
        ...


@dataclass(frozen=True)
class Diffusing:
    """The course of a diffusion model; x = image + σ · noise."""

    scheduler: Any
    levels: list[float]
    named: bool
    last: float
    """The model's own last level."""

    @classmethod
    def of(cls, model: Model, settings: Settings) -> Diffusing:
        """Set a scheduler; a sampler by its name takes the model's own levels.

        Raises `ValueError` for a denoise below 1 with somebody's scheduler, which has its own.
        """
        scheduler, last = settings.scheduler, float(model.levels[-1])
        if settings.named:
            scheduler = SAMPLERS[settings.sampler].from_config(model.pipeline.scheduler.config)
            levels = model.sigmas(settings.steps, settings.denoise, settings.scheduler)
            scheduler.set_timesteps(len(levels) - 1, device="cpu")
            scheduler.sigmas = torch.tensor(levels)
            scheduler.timesteps = torch.tensor([float(model.timestep(s)) for s in levels[:-1]])
            scheduler.set_begin_index(0)
            return cls(scheduler, levels, True, last)
        _check_whole(settings)
        scheduler.set_timesteps(settings.steps, device="cpu")
        if hasattr(scheduler, "sigmas"):
            levels = [*(float(one) for one in scheduler.sigmas[: len(scheduler.timesteps)]), 0.0]
        else:
            levels = [*(float(model.levels[int(t)]) for t in scheduler.timesteps), 0.0]
        return cls(scheduler, levels, False, last)

    @property
    def preserved(self) -> bool:
        """Whether the scheduler's latents keep their variance: x / √(1 + σ²)."""
        return isclose(float(self.scheduler.init_noise_sigma), 1.0)

    def begin(self, image: Tensor, noise: Tensor) -> Tensor:
        """Lay noise over an image, see `Course`.

        ComfyUI's rule: of a variance as in training at the model's last level, else as much as the
        level says. Somebody's scheduler begins as it does.
        """
        sigma = self.levels[0]
        if not self.named:
            much = 1 / c_in(sigma) if self.preserved else float(self.scheduler.init_noise_sigma)
        else:
            much = 1 / c_in(sigma) if sigma >= self.last * (1 - 1e-5) else sigma
        return image + much * noise

    def noised(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Lay noise over an image, see `Course`."""
        return DIFFUSION.noised(image, noise, sigma)

    def step(self, n: int, prediction: Tensor, x: Tensor, **extra: Any) -> Tensor:
        """Take a step, see `Course`."""
        theirs, time = x * self._scale(self.levels[n]), self.scheduler.timesteps[n]
        self.scheduler.scale_model_input(theirs, time)  # done already, but asked for
        stepped = self.scheduler.step(prediction, time, theirs, **_taken(self.scheduler, extra))
        return stepped.prev_sample / self._scale(self.levels[n + 1])

    def _scale(self, sigma: float) -> float:
        """What makes latents in the sampler's space the scheduler's own, at level σ."""
        return c_in(sigma) if self.preserved else 1.0


@dataclass(frozen=True)
class Flowing:
    """The course of a flow-matching model; x = (1 − σ) · image + σ · noise."""

    scheduler: Any
    levels: list[float]

    @classmethod
    def of(cls, model: FlowModel, settings: Settings, size: torch.Size) -> Flowing:
        """Set a scheduler as the model's own pipeline does, for latents of a size.

        Raises `ValueError` for a sampler that is not Euler's, for a spacing of diffusion models,
        for a denoise below 1 with somebody's scheduler, and for too few steps for a schedule.
        """
        scheduler = settings.scheduler
        if not settings.named:
            _check_whole(settings)
            scheduler.set_timesteps(**model.steps(scheduler, settings.steps, size))
            return cls(scheduler, [float(one) for one in scheduler.sigmas])
        if settings.sampler not in ("euler", "ddim") or scheduler != "normal":
            raise ValueError(
                f"Expected the sampler euler and the scheduler normal for {model.kind.name}, which "
                f"matches flows, got {settings.sampler} and {scheduler}. Choose these, or give a "
                "scheduler of diffusers."
            )
        euler: Any = FlowMatchEulerDiscreteScheduler
        scheduler = euler.from_config(model.pipeline.scheduler.config)
        whole = int(settings.steps / settings.denoise)
        scheduler.set_timesteps(**model.steps(scheduler, whole, size))
        scheduler.sigmas = scheduler.sigmas[-settings.steps - 1 :]
        scheduler.timesteps = scheduler.timesteps[-settings.steps :]
        scheduler.set_begin_index(0)
        return cls(scheduler, [float(one) for one in scheduler.sigmas])

    def begin(self, image: Tensor, noise: Tensor) -> Tensor:
        """Lay noise over an image, see `Course`."""
        return self.noised(image, noise, self.levels[0])

    def noised(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Lay noise over an image, see `Course`."""
        return FLOW.noised(image, noise, sigma)

    def step(self, n: int, prediction: Tensor, x: Tensor, **extra: Any) -> Tensor:
        """Take a step, see `Course`."""
        time, taken = self.scheduler.timesteps[n], _taken(self.scheduler, extra)
        return self.scheduler.step(prediction, time, x, **taken).prev_sample


def course_of(model: Model, settings: Settings, size: torch.Size) -> Course:
    """Set out a course for latents of a size; raises `ValueError` as its class does."""
    if isinstance(model, FlowModel):
        return Flowing.of(model, settings, size)
    return Diffusing.of(model, settings)


def _check_whole(settings: Settings) -> None:
    if settings.denoise < 1:
        raise ValueError(
            f"Expected a denoise of 1 for {type(settings.scheduler).__name__}, which has timesteps "
            f"of its own, got {settings.denoise:g}. Choose a sampler by its name."
        )


def _taken(scheduler: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of some arguments that a scheduler's step takes."""
    takes = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in extra.items() if name in takes}
