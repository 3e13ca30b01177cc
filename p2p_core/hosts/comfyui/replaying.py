"""Sampling an inverted image in ComfyUI: what an inversion asks of a run, and how it is done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...inversion.negative_prompt import proximal
from ...inversion.record import Facts, Inversion, Spacing, probed
from ...inversion.task import Space
from .conditioning import Conditioning, EncodedController, source_alone


def space_of(model: Any) -> Space:
    """Read off the host how noise lies over this model's images.

    Raises `ValueError` for a model that samples from something other than noise.
    """
    sampling = model.get_model_object("model_sampling")

    def noised(image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        level = torch.tensor(sigma, device=image.device, dtype=image.dtype)
        return sampling.noise_scaling(level, noise, image)

    def c_in(sigma: float) -> float:
        return float(sampling.calculate_input(torch.tensor(sigma), torch.ones(1)))

    if not noised(torch.zeros(1), torch.ones(1), 0.5).any():
        raise ValueError(
            "Expected a model that samples from noise, got one that makes an image of another. "
            "Give it the image as its own nodes do; there is nothing to invert."
        )
    return Space(noised, c_in)


def probe(model: Any) -> Tensor:
    """Read some of a model's weights, patches included, to tell it from others: float[n]."""
    weights = {  # patched weights are other numbers while the model is loaded
        key: weight
        for key, weight in model.model.state_dict().items()
        if key.startswith("diffusion_model.") and key not in model.patches
    }
    patches = [
        float(patch[0]) for key in sorted(model.patches, key=str) for patch in model.patches[key]
    ]
    return torch.cat([probed(weights), torch.tensor([float(len(patches)), sum(patches)])])


def name_of(sampler: Any) -> str:
    """Name one of the host's samplers as its nodes do; others are "another"."""
    function = getattr(getattr(sampler, "sampler_function", None), "__name__", "another")
    name = function.removeprefix("sample_").removesuffix("_function")
    return name.replace("unipc", "uni_pc")


def check(
    inversion: Inversion,
    guider: Any,
    encoded: EncodedController,
    conditionings: dict[str, Conditioning],
    sampler: Any,
    sigmas: Tensor,
    spacing: Spacing | None,
    whole: Tensor,
    seed: int | None,
) -> None:
    """Raises `ValueError` naming what is not as it was when the image was inverted.

    `whole` is the schedule that `sigmas` are a part of, and `seed` that of the noise, if any.
    """
    model = guider.model_patcher
    (source, _), *_ = source_alone(encoded)
    negative = conditionings.get("negative")
    inversion.check(
        Facts(
            probe=probe(model),
            prompt=encoded.controller.source.text,
            source=source,
            negative=None if negative is None else negative[0][0],
            sigmas=sigmas,
            spacing=spacing,
            sampler=name_of(sampler),
            guidance=getattr(guider, "cfg", inversion.guidance),
            whole=whole,
            seed=seed,
        )
    )


def apply(
    inversion: Inversion,
    patched: Any,
    encoded: EncodedController,
    conditionings: dict[str, Conditioning],
) -> tuple[Any, dict[str, Conditioning]]:
    """Change the model, already a clone, and the conditionings as the inversion wants them."""
    if inversion.found.source_as_negative:
        conditionings = {**conditionings, "negative": source_alone(encoded)}
    if inversion.proximal:
        if "sampler_cfg_function" in patched.model_options:
            raise ValueError(
                "Expected no other patch of the guidance beside proximal guidance, got one. "
                "Take it off this model, or invert with proximal 0."
            )

        def guided(args: dict[str, Any]) -> Tensor:
            difference = proximal(args["cond"] - args["uncond"], inversion.proximal)
            return args["uncond"] + args["cond_scale"] * difference

        patched.set_model_sampler_cfg_function(guided)
    return patched, conditionings
