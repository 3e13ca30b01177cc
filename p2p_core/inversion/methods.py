"""Every inversion method by its name, with its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from . import ddim, direct, negative_prompt, noising, null_text
from .null_text import Schedule
from .record import FOLLOWING
from .task import Draw, Found, Task

Method = Callable[[Task], Found]

METHODS = (
    "null-text",
    "negative-prompt",
    "direct",
    "direct-shared",
    "edit-friendly",
    "ddim",
    "noise",
    "residual",
)


def drawn(latents: Tensor, n: int) -> Tensor:
    """Draw the noise of seed n."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(n))


@dataclass(frozen=True)
class Options:
    """How to invert: one of `METHODS` with its options, see `p2p_core.inversion`.

    Raises `ValueError` for another method.
    """

    method: str = "null-text"
    schedule: Schedule = field(default_factory=Schedule)
    iterations: int = 0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Expected one of {', '.join(METHODS)}, got {self.method!r}.")
        if not 0 <= self.proximal < 1:
            raise ValueError(
                f"Expected proximal within 0 and 1, got {self.proximal:g}. It is the part of the "
                "guidance that is left out: 0 leaves out nothing, 0.7 is usual."
            )
        if self.proximal and self.method != "negative-prompt":
            raise ValueError(
                f"Expected proximal 0 for the method {self.method}, got {self.proximal:g}. "
                "Proximal guidance belongs to negative-prompt inversion."
            )
        if self.iterations and self.method in ("edit-friendly", "noise"):
            raise ValueError(
                f"Expected 0 iterations for the method {self.method}, got {self.iterations}. It "
                "adds noise; there is no walk to refine."
            )

    def suits(self, sampler: str) -> bool:
        """Tell whether a sampler of this name can follow what will be found."""
        restore_source = ("direct", "direct-shared", "edit-friendly", "noise", "residual")
        return self.method in restore_source or sampler in FOLLOWING

    def check_guidance(self, guidance: float) -> None:
        """Raises `ValueError` at a guidance of 1 for methods that work by the negative prompt."""
        if guidance == 1 and self.method in ("null-text", "negative-prompt"):
            raise ValueError(
                f"Expected a cfg other than 1 for the method {self.method}, which works by the "
                "negative prompt, got 1, where no negative prompt is evaluated; models with "
                "distilled guidance, such as Flux.1, are run so. Choose the method residual or "
                "direct-shared."
            )

    def __call__(self, task: Task, draw: Draw = drawn) -> Found:
        """Do it; methods that add noise `draw` it."""
        if self.method == "noise":
            return noising.invert(task, draw(task.latent, 0))
        if self.method == "edit-friendly":
            noises = [draw(task.latent, n) for n in range(len(task.sigmas))]
            return noising.invert_edit_friendly(task, noises)
        if self.method == "null-text":
            return null_text.invert(task, self.schedule, self.iterations)
        method = {
            "ddim": ddim.invert,
            "direct": direct.invert,
            "direct-shared": partial(direct.invert, shared=True),
            "negative-prompt": negative_prompt.invert,
            "residual": direct.invert_with_residual,
        }[self.method]
        return method(task, self.iterations)
