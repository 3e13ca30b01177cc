"""The node that samples source and edits side by side."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.sampling import sample
from .common import CATEGORY, Controller, optional_schema


class P2PKSampler(io.ComfyNode):
    """A KSampler for a source prompt and its edits (paper Algorithm 1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_KSampler",
            display_name="P2P KSampler",
            category=CATEGORY,
            description="Samples the source image and every edited image from the same noise in "
            "one batch, the edits sharing the source's attention. The source image is the stock "
            "KSampler's for the same settings.",
            **optional_schema(search_aliases=["prompt to prompt", "dual latent", "sampler"]),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that denoises: SD1.x, SD2.x, SDXL or the demo model.",
                ),
                Controller.Input(
                    "controller", tooltip="The prompts and edits, from a P2P Controller."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="What source and edited images should not show. One prompt serves all.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to denoise, one a source image: an empty latent, or an "
                    "encoded image with denoise below 1. The edits' latents are made from it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise that source and edits share.",
                ),
                io.Int.Input(
                    "steps", default=30, min=1, max=10000, tooltip="How many sampling steps."
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance scale: higher follows the prompts more "
                    "closely. 1 is off.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="The sampling algorithm; any of the host's.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="How the noise falls over the steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is denoised, 0 to 1. "
                    "Below 1 starts from the given latent image.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="source",
                    tooltip="The source image's latent, untouched by the edits.",
                ),
                io.Latent.Output(
                    display_name="edited",
                    tooltip="The edited images' latents, in the order of the controller's edits.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        controller: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
    ) -> io.NodeOutput:
        source, edited = sample(
            model,
            controller,
            negative,
            latent_image,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
        )
        return io.NodeOutput(source, edited)
