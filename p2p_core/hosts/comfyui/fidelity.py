"""The fidelity benchmark's methods in ComfyUI: invert, edit by words, count what it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from ...controller import Chain
from ...demo.benchmark import Case
from ...edits import Refine, SelfInjection
from ...inversion.methods import Options
from ...inversion.null_text import REFERENCE
from ...local_blend import LocalBlend
from ...schedules import Schedule as Windows
from ...schedules import Window
from .conditioning import build_controller
from .demo import DemoPipeline
from .inverting import invert_latent
from .sampling import sample

REFERENCE_CASES = 14
"""How many cases the reference's schedule of null-text optimisation is tried on: it is slow."""

STRENGTH = 0.7
"""How far towards noise image-to-image and noise-and-denoise go."""


@dataclass(frozen=True)
class Made:
    """What a method made of a picture: uint8[height width 3], and the cost in rows evaluated."""

    edited: np.ndarray
    reconstruction: np.ndarray | None
    evaluations: int
    optimisation_evaluations: int


class Lab:
    """The demo model, with its evaluations counted."""

    def __init__(self, steps: int, cfg: float) -> None:
        comfy.utils.set_progress_bar_enabled(False)
        self.steps, self.cfg = steps, cfg
        self.pipeline = DemoPipeline()
        self.model = self.pipeline.model.clone()
        self.model.set_model_unet_function_wrapper(self._count)
        self.evaluations = 0

    def _count(self, network: Callable[..., Tensor], call: dict[str, Any]) -> Tensor:
        self.evaluations += call["input"].shape[0]
        return network(call["input"], call["timestep"], **call["c"])

    @torch.inference_mode()
    def encode(self, picture: np.ndarray) -> Tensor:
        """The latent of uint8[height width 3]: float[1 channels height width]."""
        pixels = torch.from_numpy(picture.astype(np.float32) / 255)[None]
        return self.pipeline.vae.encode(pixels)

    @torch.inference_mode()
    def perceptual_distance(self, a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
        """How differently two pictures look in a region, bool[height width]; 0 for the same.

        As LPIPS (Zhang et al. 2018) without its learned weights, in the features of the demo
        model's autoencoder: squared distances of unit vectors, mean over the region and levels.
        """
        distances: list[Tensor] = []
        region = torch.from_numpy(where.astype(np.float32))[None]
        for one, other in zip(self._features(a), self._features(b), strict=True):
            squares = (one - other).square().sum(0, keepdim=True)
            weights = adaptive_avg_pool2d(region, (squares.shape[-2], squares.shape[-1]))
            distances.append((squares * weights).sum() / weights.sum())
        return float(torch.stack(distances).mean())

    def _features(self, picture: np.ndarray) -> list[Tensor]:
        """Of every level of the autoencoder's encoder: float[channels height width]."""
        seen: list[Tensor] = []

        def look(module: Any, given: Any, output: Tensor) -> None:
            seen.append(normalize(output[0].float().cpu(), dim=0))

        levels = self.pipeline.vae.first_stage_model.encoder.down
        hooks = [level.block[-1].register_forward_hook(look) for level in levels]
        try:
            self.encode(picture)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    @torch.inference_mode()
    def show(self, latent: Tensor) -> np.ndarray:
        """The picture of a latent: uint8[height width 3]."""
        return self.pipeline.decode(latent)[0]


def edit(case: Case, cross: float, own: float, blend: bool) -> Chain:
    """The whole edited prompt, aligned with the source's."""
    refine = Refine(
        case.edited_prompt, True, Windows(Window(0, cross)), SelfInjection(Window(0, own))
    )
    before, after = case.words
    return (refine, *([LocalBlend((before,), (after,))] if blend else []))


@dataclass(frozen=True)
class Method:
    """An inversion with Prompt-to-Prompt, or without: then the prompt is changed and no more."""

    options: Options
    controlled: bool = True
    blend: bool = False
    denoise: float = 1.0
    sampler: str = "euler"
    reference: bool = False

    def run(self, lab: Lab, picture: np.ndarray, case: Case) -> Made:
        """Invert the case's picture and edit it."""
        lab.evaluations, optimising = 0, 0

        def watch(progress: Any) -> None:
            nonlocal optimising
            optimising += progress.loss is not None

        pipeline, latent = lab.pipeline, lab.encode(picture)
        settings = {"scheduler": "normal", "steps": lab.steps, "denoise": self.denoise}
        with torch.inference_mode():
            inversion = invert_latent(
                lab.model,
                pipeline.clip,
                case.prompt,
                self.options,
                negative=pipeline.encode([""]),
                latent={"samples": latent},
                vae=pipeline.vae,
                guidance=lab.cfg,
                watch=watch,
                low_memory=False,
                **settings,
            )
            windows = (0.6, 0.4) if self.controlled else (0.0, 0.0)
            chain = edit(case, *windows, self.blend)
            result = sample(
                lab.model,
                build_controller(pipeline.clip, case.prompt, [chain]),
                negative=pipeline.encode([""]),
                latent={"samples": inversion.latent},
                seed=0,
                cfg=lab.cfg,
                sampler_name=self.sampler,
                inversion=inversion,
                **settings,
            )
        return Made(
            lab.show(result.edited["samples"]),
            lab.show(result.source["samples"]) if self.controlled else None,
            lab.evaluations,
            optimising,
        )


METHODS: dict[str, Method] = {
    "ddim": Method(Options("ddim")),
    "null_text": Method(Options("null-text")),
    "null_text_reference": Method(Options("null-text", REFERENCE), reference=True),
    "negative_prompt": Method(Options("negative-prompt")),
    "proximal": Method(Options("negative-prompt", proximal=0.7)),
    "direct": Method(Options("direct")),
    "direct_shared": Method(Options("direct-shared")),
    "direct_shared_blend": Method(Options("direct-shared"), blend=True),
    "edit_friendly": Method(Options("edit-friendly"), denoise=STRENGTH, sampler="euler_ancestral"),
    "noise_blend": Method(Options("noise"), blend=True, denoise=STRENGTH),
    "reprompt": Method(Options("ddim"), controlled=False),
    "img2img": Method(Options("noise"), controlled=False, denoise=STRENGTH),
}
"""What ends in `_blend` has a local blend of the words that change. Without control: `reprompt`
from the inverted noise, `img2img` as SDEdit and users do it."""
