"""The fidelity benchmark in diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...hosts.diffusers.inverting import invert
from ...hosts.diffusers.pipeline import Model
from ...hosts.diffusers.sampling import Settings, sample
from ..meter import counted
from ..outputs import outputs_of
from .cases import Case
from .methods import Made, Method


class DiffusersLab:
    """The benchmark's `methods.Lab` in diffusers."""

    def __init__(self, steps: int, cfg: float) -> None:
        self.steps, self.cfg = steps, cfg
        self.model = Model.demo()
        if torch.cuda.is_available():
            self.model.pipeline.to("cuda")

    def round_trip(self, picture: np.ndarray) -> np.ndarray:
        return self.model.to_pictures(self.model.to_latent(picture[None]))[0]

    def features(self, picture: np.ndarray) -> list[Tensor]:
        levels = self.model.pipeline.vae.encoder.down_blocks
        return outputs_of(
            [level.resnets[-1] for level in levels], lambda: self.model.to_latent(picture[None])
        )

    def make(self, method: Method, picture: np.ndarray, case: Case) -> Made:
        with counted(self.model.pipeline.unet) as rows:
            edited, reconstruction, optimising = self._make(method, picture, case)
        return Made(edited, reconstruction, sum(rows), optimising)

    def _make(
        self, method: Method, picture: np.ndarray, case: Case
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Make the edited picture and the one that comes back; says how often it optimised."""
        optimising = 0

        def watch(progress: Any) -> None:
            nonlocal optimising
            optimising += progress.loss is not None

        latent = self.model.to_latent(picture[None])
        settings = Settings(self.steps, self.cfg, method.sampler, method.denoise)
        inversion = invert(
            self.model,
            latent,
            case.prompt,
            method.options,
            settings,
            watch=watch,
            low_memory=False,
        )
        chains = [method.chain(case)]
        result = sample(
            self.model, case.prompt, chains, latent, settings, inversion=inversion, quiet=True
        )
        return (
            self.model.to_pictures(result.edited)[0],
            self.model.to_pictures(result.source)[0] if method.controlled else None,
            optimising,
        )
