"""The fidelity benchmark in ComfyUI: invert, edit by words, count what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...hosts.comfyui.conditioning import build_controller
from ...hosts.comfyui.demo import DemoPipeline
from ...hosts.comfyui.inverting import invert_latent
from ...hosts.comfyui.sampling import sample
from ..meter import counted
from ..outputs import outputs_of
from .cases import Case
from .methods import Made, Method


class ComfyLab:
    """The benchmark's `methods.Lab` in ComfyUI, with one of the demo models."""

    def __init__(self, steps: int, cfg: float, weights: Path) -> None:
        comfy.utils.set_progress_bar_enabled(False)
        self.steps, self.cfg = steps, cfg
        self.pipeline = DemoPipeline(weights)
        self.model = self.pipeline.model

    @torch.inference_mode()
    def round_trip(self, picture: np.ndarray) -> np.ndarray:
        return self._show(self._encode(picture))

    @torch.inference_mode()
    def features(self, picture: np.ndarray) -> list[Tensor]:
        levels = self.pipeline.vae.first_stage_model.encoder.down
        return outputs_of([level.block[-1] for level in levels], lambda: self._encode(picture))

    @torch.inference_mode()
    def make(self, method: Method, picture: np.ndarray, case: Case) -> Made:
        with counted(self.model.model.diffusion_model) as rows:
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

        pipeline = self.pipeline
        negative = pipeline.clip.encode_from_tokens_scheduled(pipeline.clip.tokenize(""))
        settings = {"scheduler": "normal", "steps": self.steps, "denoise": method.denoise}
        inversion = invert_latent(
            self.model,
            pipeline.clip,
            case.prompt,
            method.options,
            negative=negative,
            latent={"samples": self._encode(picture)},
            vae=pipeline.vae,
            guidance=self.cfg,
            watch=watch,
            low_memory=False,
            **settings,
        )
        result = sample(
            self.model,
            build_controller(pipeline.clip, case.prompt, [method.chain(case)]),
            negative=negative,
            latent={"samples": inversion.latent},
            seed=0,
            cfg=self.cfg,
            sampler_name=method.sampler,
            inversion=inversion,
            **settings,
        )
        return (
            self._show(result.edited["samples"]),
            self._show(result.source["samples"]) if method.controlled else None,
            optimising,
        )

    def _encode(self, picture: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(picture.astype(np.float32) / 255)[None]
        return self.pipeline.vae.encode(pixels)

    def _show(self, latent: Tensor) -> np.ndarray:
        return self.pipeline.decode(latent)[0]
