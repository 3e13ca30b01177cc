"""How images are sampled in diffusers, by the names that ComfyUI has for it."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from .pipeline import SCHEDULERS

SAMPLERS: dict[str, Any] = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddim": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}
"""diffusers' schedulers by the names that ComfyUI has for the same samplers.

DDIM (η = 0) is Euler's method in σ, and so can be on any levels.
"""


@dataclass(frozen=True)
class Settings:
    """How to sample: steps, guidance, seed, sampler and scheduler.

    `scheduler` is the name of a spacing of levels, see `Model.sigmas`, or a scheduler of diffusers,
    which has levels of its own and takes the place of the `sampler`.
    """

    steps: int = 50
    cfg: float = 7.5
    sampler: str = "euler"
    denoise: float = 1.0
    seed: int = 0
    scheduler: Any = "normal"
    guidance: float = 3.5
    """What a model is told that was distilled for guidance, such as Flux.1-dev; others: nothing."""

    def __post_init__(self) -> None:
        if not isfinite(self.cfg):
            raise ValueError(
                f"Expected a finite guidance scale (cfg), got {self.cfg:g}. Choose such as 7.5."
            )
        if self.named and self.sampler not in SAMPLERS:
            raise ValueError(
                f"Expected the sampler to be one of {', '.join(SAMPLERS)}, got {self.sampler!r}."
            )
        if self.named and self.scheduler not in SCHEDULERS:
            raise ValueError(
                f"Expected the scheduler to be one of {', '.join(SCHEDULERS)}, got "
                f"{self.scheduler!r}."
            )

    @property
    def named(self) -> bool:
        """Whether the sampler is asked for by its name."""
        return isinstance(self.scheduler, str)
