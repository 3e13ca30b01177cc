"""The host's samplers with blending: what each changes in place of its latents while it runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...blending import Blending
from .stepping import Act, stepped


def blended(blending: Blending, sampler: Any) -> Any:
    """Copy the host's sampler so that it blends; raises `ValueError` for one that cannot."""
    if getattr(sampler, "sampler_function", None) is None:
        raise ValueError(
            "Expected one of ComfyUI's own samplers for a local blend or direct inversion, got "
            f"{type(sampler).__name__}. Choose another sampler or leave them out."
        )

    def begin(model: Any, seed: int) -> Act:
        noised = partial(_noised, model, blending.rows.source_block, seed)

        def act(x: Tensor, sigma: float, done: bool) -> None:
            whole = x.shape[-2:] == blending.size  # some samplers also look at a smaller latent
            if done or (whole and blending.wants(sigma)):
                blending.apply(x, sigma, noised, done)

        return act

    return stepped(sampler, begin)


def _noised(model: Any, sources: slice, seed: int, latent: Tensor, sigma: float) -> Tensor:
    """A clean latent at the noise level, with the noise that the run began with.

    A run that goes on from another's adds none: then with the noise of its seed.
    """
    base = model.inner_model.inner_model
    noise = model.noise[sources]
    if not noise.any():
        noise = comfy.sample.prepare_noise(noise, seed).to(noise)
    if latent.shape[-3:] != noise.shape[-3:] or latent.shape[0] not in (1, len(noise)):
        raise ValueError(
            f"Expected a background latent of shape {list(noise.shape)}, got "
            f"{list(latent.shape)}. Encode an image of the size that is sampled."
        )
    clean = base.process_latent_in(latent.to(noise)).expand_as(noise)
    level = torch.tensor(sigma, device=noise.device, dtype=noise.dtype)
    return base.model_sampling.noise_scaling(level, noise, clean)
