"""Sampling a source by itself, and keeping its path, so that edits need not sample it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...inversion.record import Drawn, Inversion, Spacing, summary
from ...inversion.task import Found
from .conditioning import Conditioning
from .families import family_of
from .replaying import name_of, probe
from .sampling import samples_of, stock_levels
from .stepping import stepped


def sample_source(
    model: Any,
    clip: Any,
    prompt: str,
    *,
    negative: Conditioning,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
    positive: Conditioning | None = None,
    callback: Callable[..., None] | None = None,
) -> Inversion:
    """Sample a source prompt as the stock KSampler does, and keep every latent that it evaluates.

    Its trajectory is one latent for each evaluation, in main memory, and the image. `positive` is
    the prompt's conditioning where other nodes had it, as the edits' then is to be, too. Raises
    `ValueError` for a model that cannot be edited, and for latents and settings of which there is
    no path to keep.
    """
    family_of(model)  # of one that can be edited
    samples = samples_of(model, latent)
    if "noise_mask" in latent:
        raise ValueError(
            "Expected a latent without a noise mask, got one with it. Take the mask off; P2P Local "
            "Blend Mask takes one of where the image may change."
        )
    sigmas = stock_levels(model, steps, sampler_name, scheduler, denoise)
    if len(sigmas) < 2 or sigmas[-1] != 0:
        raise ValueError(
            f"Expected a source to be sampled from noise to its end, got {len(sigmas)} noise "
            "level(s). Raise denoise above 0, and choose a scheduler that ends at 0."
        )
    source = positive or clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    recorder = _Recorder(comfy.samplers.sampler_object(sampler_name))
    result = comfy.samplers.sample(
        model,
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        source,
        negative,
        cfg,
        model.load_device,
        recorder.sampler,
        sigmas.clone(),
        model.model_options,
        latent_image=samples,
        callback=callback,
        disable_pbar=callback is None,
        seed=seed,
    )
    return Inversion(
        method="sampled",
        prompt=prompt,
        guidance=cfg,
        sigmas=sigmas.cpu(),
        found=Found(
            torch.stack(recorder.latents), restore_source=True, levels=tuple(recorder.levels)
        ),
        latent=samples.cpu(),
        reconstruction=result.cpu(),
        psnr=(),
        source=summary(source[0][0]),
        negative=summary(negative[0][0]),
        probe=probe(model),
        spacing=Spacing(steps, scheduler, denoise),
        drawn=Drawn(name_of(recorder.sampler), seed),
    )


class _Recorder:
    """A sampler of the host's that keeps what it evaluates, and what comes of it."""

    def __init__(self, sampler: Any) -> None:
        self.latents: list[Tensor] = []
        self.levels: list[float] = []
        self.sampler = stepped(sampler, lambda model, seed: self.keep)

    def keep(self, x: Tensor, sigma: float, done: bool) -> None:
        """Keep latents at a noise level."""
        self.latents.append(x.detach().to("cpu", copy=True))
        self.levels.append(sigma)
