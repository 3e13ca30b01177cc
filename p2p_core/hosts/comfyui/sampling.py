"""Sampling source and edits side by side (paper Algorithm 1)."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.utils
import latent_preview
from torch import Tensor

from ...controller import Rows
from .attention import attach
from .conditioning import Conditioning, EncodedController, batched, matched


def sample(
    model: Any,
    encoded: EncodedController,
    negative: Conditioning,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sample source and edits side by side.

    Returns (source latent, edited latents, an edit's images together).
    The source latent is what the stock KSampler makes of the source prompt with the same settings.
    Raises `ValueError` for a model without cross-attention, latents of the wrong shape and
    conditionings that don't match.
    """
    patched = attach(model)
    samples = _checked_latent(model, latent)
    rows = Rows(sources=samples.shape[0], edits=len(encoded.controller.branches))
    repeats = (1 + rows.edits, *[1] * (samples.ndim - 1))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")).repeat(repeats)
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] == rows.sources and rows.sources > 1:
        mask = mask.repeat(1 + rows.edits, *[1] * (mask.ndim - 1))
    result = comfy.sample.sample(
        patched,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        batched(encoded.conditioning, rows, encoded.controller),
        matched(negative, rows, "negative"),
        samples.repeat(repeats),
        denoise=denoise,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    source = {**kept, "samples": result[: rows.sources]}
    edited = {key: value for key, value in kept.items() if key not in ("batch_index", "noise_mask")}
    return source, {**edited, "samples": result[rows.sources :]}


def _checked_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "Expected one latent image or a batch of them, got a nested latent. "
            "Sample its parts apart."
        )
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"Expected a latent of shape [images, {channels}, height, width], "
            f"got {list(samples.shape)}. "
            "Encode the image with this model's own VAE, or use an empty latent for this kind of "
            "model."
        )
    return samples
