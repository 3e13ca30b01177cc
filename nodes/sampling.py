"""The nodes that sample source and edits side by side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.sampling import EditGuider, sample
from ..p2p_core.hosts.comfyui.viewing import Run as SamplingRun
from ..p2p_core.inversion.record import FOLLOWING
from .common import (
    ADVANCED,
    CATEGORY,
    FIXED,
    NOTHING,
    Controller,
    Inversion,
    Run,
    id_of,
    optional_schema,
    show,
)


def model_input() -> Any:
    return io.Model.Input(
        "model",
        tooltip="The model that denoises: Stable Diffusion, Flux, Qwen-Image, Z-Image, Wan and the "
        "others that the README names, or the demo model.",
    )


def controller_input() -> Any:
    return Controller.Input("controller", tooltip="The prompts and edits, from a P2P Controller.")


def negative_input() -> Any:
    return io.Conditioning.Input(
        "negative",
        tooltip="What source and edited images should not show. One prompt serves all.",
    )


def positive_input() -> Any:
    return io.Conditioning.Input(
        "positive",
        optional=True,
        display_name="controller's positive",
        tooltip="The P2P Controller's positive output after other nodes had it, such as Apply "
        "ControlNet; no other prompt. Leave unconnected otherwise.",
    )


def inversion_input() -> Any:
    return Inversion.Input(
        "inversion",
        optional=True,
        tooltip="An inversion of the latent image, from P2P Null-text Inversion: the source is "
        "then that image. It brings its steps, cfg, scheduler and denoise; those here are for "
        "sampling without one. Or a source from P2P Sample Source, of the same settings, which "
        "is not sampled again.",
    )


def brought(inversion: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A sampler's settings, with those that its inversion was made with, and what to say of it.

    What an old file does not tell stays as it is, and is looked at when sampling begins.
    """
    if inversion is None or inversion.drawn is not None:  # a sampled source's have to be the same
        return dict(settings), []
    own = {name: value for name, value in inversion.settings.items() if name in settings}
    differ = [
        f"{name} {_plain(value)}, not {_plain(settings[name])}"
        for name, value in own.items()
        if value != settings[name]
    ]
    lines = ["from the inversion: " + ("; ".join(differ) or "settings as they are here")]
    if inversion.method == "edit-friendly" and settings.get("sampler_name") in FOLLOWING:
        lines.append("edit-friendly goes best with the sampler euler_ancestral")
    return {**settings, **own}, lines


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def noise_inputs() -> list[Any]:
    """Seed, steps, guidance, sampler and scheduler, as the stock KSampler has them."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=FIXED,
            tooltip="The seed of the noise that source and edits share.",
        ),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="How many sampling steps."),
        cfg_input(),
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
    ]


def denoise_input() -> Any:
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="How much of the latent is denoised, 0 to 1. "
        "Below 1 starts from the given latent image.",
    )


def cfg_input() -> Any:
    return io.Float.Input(
        "cfg",
        default=7.5,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Classifier-free guidance scale: higher follows the prompts more "
        "closely. 1 is off.",
    )


def outputs() -> list[Any]:
    return [
        io.Latent.Output(
            display_name="source",
            tooltip="The source image's latent, untouched by the edits.",
        ),
        io.Latent.Output(
            display_name="edited",
            tooltip="The edited images' latents, in the order of the controller's edits.",
        ),
        io.Mask.Output(
            display_name="masks",
            tooltip="Where each edited image may differ from its source, at the latent's "
            "resolution: the last step's mask of its Local Blend Mask, white without one.",
        ),
        Run.Output(
            display_name="run",
            tooltip="This run, to be looked at with P2P Attention Maps.",
        ),
    ]


def sampled(model: Any, controller: Any, **settings: Any) -> io.NodeOutput:
    """Sample, and make a node's outputs; settings are those of `sampling.sample`.

    Without edits there is no edited image to be decoded, only none to go on from.
    """
    latent = settings.pop("latent_image")
    again = partial(sample, model, controller, latent=latent, **settings)
    result = again()
    run = SamplingRun(model, controller, latent, again)
    if not run.rows.edits and not settings.get("leftover_noise"):
        return io.NodeOutput(result.source, NOTHING, NOTHING, run)
    return io.NodeOutput(result.source, result.edited, result.masks, run)


class P2PKSampler(io.ComfyNode):
    """A KSampler for a source prompt and its edits (paper Algorithm 1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_KSampler",
            display_name="P2P KSampler (Prompt-to-Prompt)",
            category=CATEGORY,
            description="Samples the source image and every edited image from the same noise in "
            "one batch, the edits sharing the source's attention. The source image is the stock "
            "KSampler's for the same settings.",
            **optional_schema(search_aliases=["prompt to prompt", "dual latent", "sampler"]),
            inputs=[
                model_input(),
                controller_input(),
                negative_input(),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to denoise, one a source image: an empty latent, or an "
                    "encoded image with denoise below 1. The edits' latents are made from it.",
                ),
                *noise_inputs(),
                denoise_input(),
                positive_input(),
                inversion_input(),
                io.Latent.Input(
                    "edited",
                    optional=True,
                    tooltip="The edited latents of the P2P KSampler before this one, enlarged as "
                    "its source is, for a second pass with denoise below 1. Leave unconnected "
                    "otherwise: the edits start where the source does.",
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, controller: Any, **settings: Any) -> io.NodeOutput:
        settings, lines = brought(settings.get("inversion"), settings)
        if lines:
            show("\n".join(lines), id_of(cls))
        return sampled(model, controller, **settings)


class P2PKSamplerAdvanced(io.ComfyNode):
    """A KSamplerAdvanced for a source prompt and its edits: a part of the steps at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_KSamplerAdvanced",
            display_name="P2P KSampler (Advanced)",
            category=CATEGORY,
            description="The P2P KSampler for a part of the steps, as the stock KSampler "
            "(Advanced). The edits' windows refer to all the steps, so an edit runs through "
            "several of these nodes as through one; only a Local Blend Mask looks at its words "
            "anew in each.",
            **optional_schema(search_aliases=["prompt to prompt", "dual latent", "sampler"]),
            inputs=[
                model_input(),
                controller_input(),
                negative_input(),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to denoise, one a source image, or the source latent of "
                    "the P2P KSampler (Advanced) before this one.",
                ),
                io.Boolean.Input(
                    "add_noise",
                    default=True,
                    tooltip="Whether to add the seed's noise first; not where an earlier sampler "
                    "left some.",
                ),
                *noise_inputs(),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The first step to do, counting from 0.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=0,
                    max=10000,
                    tooltip="The step to stop before; beyond the last one for all of them.",
                ),
                io.Boolean.Input(
                    "return_with_leftover_noise",
                    default=False,
                    tooltip="Whether to leave the noise of the steps that are not done, for a "
                    "sampler that goes on from here.",
                ),
                io.Latent.Input(
                    "edited",
                    optional=True,
                    tooltip="The edited latents of the P2P KSampler (Advanced) before this one, to "
                    "go on from. Leave unconnected at the first: the edits start where the source "
                    "does.",
                ),
                positive_input(),
                Inversion.Input(
                    "inversion",
                    optional=True,
                    tooltip="A source from P2P Sample Source, of the same settings and all the "
                    "steps: it is then not sampled again. Or an inversion of the latent image, for "
                    "all the steps at once; it brings its steps, cfg and scheduler.",
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, controller: Any, return_with_leftover_noise: bool, **settings: Any
    ) -> io.NodeOutput:
        settings, lines = brought(settings.get("inversion"), settings)
        if lines:
            show("\n".join(lines), id_of(cls))
        return sampled(model, controller, leftover_noise=return_with_leftover_noise, **settings)


class P2PGuider(io.ComfyNode):
    """The general way to sample source and edits: a guider for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Guider",
            display_name="P2P Guider",
            category=CATEGORY,
            description="Source and edits for SamplerCustomAdvanced, any sampler, schedule and "
            "noise. Its output holds the source images first, then each edit's. Another guider "
            "can bring its own guidance.",
            **optional_schema(search_aliases=["prompt to prompt", "custom sampling", "guider"]),
            inputs=[
                model_input(),
                controller_input(),
                negative_input(),
                cfg_input(),
                positive_input(),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="A guider whose guidance to use instead, such as DualCFGGuider: with "
                    "its own model, negative prompt and scales (those above are then not used), "
                    "and the controller's prompts in the place of its positive prompt.",
                ),
                io.Sigmas.Input(
                    "whole_schedule",
                    optional=True,
                    tooltip="The schedule before it was split, where the sampler gets a part of "
                    "it: the edits' windows then refer to the whole.",
                ),
                io.Boolean.Input(
                    "continues",
                    default=False,
                    optional=True,
                    tooltip="Whether the latent already holds the source and edited images that "
                    "an earlier run with this controller returned; use it with DisableNoise.",
                    **ADVANCED,
                ),
                inversion_input(),
            ],
            outputs=[
                io.Guider.Output(
                    display_name="guider",
                    tooltip="To SamplerCustomAdvanced, which returns the source images, then the "
                    "edited images in the order of the controller's edits.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        controller: Any,
        negative: Any,
        cfg: float,
        positive: Any = None,
        guider: Any = None,
        whole_schedule: Any = None,
        continues: bool = False,
        inversion: Any = None,
    ) -> io.NodeOutput:
        node, lines = id_of(cls), list[str]()
        if guider is None:
            settings, lines = brought(inversion, {"cfg": cfg})
            cfg = settings["cfg"]
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(controller.conditioning, negative)
            guider.set_cfg(cfg)
        if lines:
            show("\n".join(lines), node)
        return io.NodeOutput(
            EditGuider(
                guider,
                controller,
                positive=positive,
                sigmas=whole_schedule,
                continues=continues,
                inversion=inversion,
                give_way=lambda said: show("\n".join([*lines, said]), node),
            )
        )
