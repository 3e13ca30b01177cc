"""Sampling a source by itself, and keeping its path, so that edits need not sample it again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
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
from .sampling import samples_of


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
    return sampled_source(
        model,
        prompt,
        source=positive or clip.encode_from_tokens_scheduled(clip.tokenize(prompt)),
        negative=negative,
        latent=latent,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        callback=callback,
    )


def sampled_source(
    model: Any,
    prompt: str,
    *,
    source: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
    callback: Callable[..., None] | None = None,
) -> Inversion:
    """Do what `sample_source` does, for a prompt that is encoded already; errors likewise."""
    family_of(model)  # of one that can be edited
    samples = samples_of(model, latent)
    if "noise_mask" in latent:
        raise ValueError(
            "Expected a latent without a noise mask, got one with it. Take the mask off; P2P Local "
            "Blend Mask takes one of where the image may change."
        )
    stock = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    if len(stock.sigmas) < 2 or stock.sigmas[-1] != 0:
        raise ValueError(
            f"Expected a source to be sampled from noise to its end, got {len(stock.sigmas)} noise "
            "level(s). Raise denoise above 0, and choose a scheduler that ends at 0."
        )
    recorder = _Recorder(comfy.samplers.sampler_object(sampler_name))
    result = comfy.samplers.sample(
        model,
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        source,
        negative,
        cfg,
        model.load_device,
        recorder.sampler,
        stock.sigmas.clone(),
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
        sigmas=stock.sigmas.cpu(),
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
        function = sampler.sampler_function

        @wraps(function)
        def sample(model: Any, noise: Tensor, sigmas: Tensor, *args: Any, **named: Any) -> Tensor:
            result = function(_Recorded(model, self.keep), noise, sigmas, *args, **named)
            self.keep(result, sigmas[-1])
            return result

        self.sampler = copy.copy(sampler)
        self.sampler.sampler_function = sample

    def keep(self, x: Tensor, sigma: Tensor) -> None:
        """Keep latents at a noise level."""
        self.latents.append(x.detach().to("cpu", copy=True))
        self.levels.append(float(sigma.flatten()[0]))


class _Recorded:
    """The model as a sampler sees it, its latents kept before they are evaluated."""

    def __init__(self, model: Any, keep: Callable[[Tensor, Tensor], None]) -> None:
        self._model, self._keep = model, keep

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
        self._keep(x, sigma)
        return self._model(x, sigma, *args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
