"""The host's samplers with blending: what each changes in place of its latents while it runs."""

from __future__ import annotations

import copy
from functools import partial, wraps
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...blending import Blending


def blended(blending: Blending, sampler: Any) -> Any:
    """Copy the host's sampler so that it blends; raises `ValueError` for one that cannot."""
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        raise ValueError(
            "Expected one of ComfyUI's own samplers for a local blend or direct inversion, got "
            f"{type(sampler).__name__}. Choose another sampler or leave them out."
        )

    @wraps(function)
    def sample(
        model: Any, noise: Tensor, sigmas: Tensor, *args: Any, extra_args: Any, **named: Any
    ) -> Tensor:
        proxy = _Blended(model, blending, extra_args.get("seed") or 0)
        result = function(proxy, noise, sigmas, *args, extra_args=extra_args, **named).clone()
        blending.apply(result, float(sigmas[-1]), proxy.noised, done=True)
        return result

    wrapped = copy.copy(sampler)
    wrapped.sampler_function = sample
    return wrapped


class _Blended:
    """The model as a sampler sees it, blending x before it is evaluated."""

    def __init__(self, model: Any, blending: Blending, seed: int) -> None:
        self._model, self._blending = model, blending
        self.noised = partial(_noised, model, blending.rows.source_block, seed)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
        level = float(sigma.flatten()[0])
        whole = x.shape[-2:] == self._blending.size  # some samplers also look at a smaller latent
        if whole and self._blending.wants(level):
            self._blending.apply(x, level, self.noised)
        return self._model(x, sigma, *args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


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
