"""Sampling source and edits side by side with diffusers' schedulers (paper Algorithm 1)."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isclose
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...attention_maps import WordMaps
from ...blending import Blending
from ...calls import CallEdits, Look
from ...controller import Chain, Controller, Rows, plan
from ...inversion.negative_prompt import proximal
from ...inversion.record import Inversion
from ...inversion.task import Embedding, c_in
from ...noise import SharedNoise
from ...schedules import progress
from ...unet import joined
from .attention import Call, attached, cross_attention_sides
from .pipeline import Model
from .replaying import check
from .settings import SAMPLERS, Settings


@dataclass(frozen=True)
class Result:
    """What sampling gave: latents, float[images channels height width], the edits' edit by edit."""

    source: Tensor
    edited: Tensor
    masks: Tensor
    """float[images height width] of every edited image; ones where it has no local blend."""


def sample(
    model: Model,
    prompt: str,
    chains: Sequence[Chain],
    latent: Tensor,
    settings: Settings | None = None,
    **rest: Any,
) -> Result:
    """Plan the edits of a prompt and sample them: all else as `sample_planned` has it.

    Raises `ValueError` for prompts and edits that do not fit, and as `sample_planned` does.
    """
    return sample_planned(model, plan(prompt, chains, model.read), latent, settings, **rest)


def sample_planned(
    model: Model,
    controller: Controller,
    latent: Tensor,
    settings: Settings | None = None,
    *,
    negative: str = "",
    inversion: Inversion | None = None,
    maps: Callable[[Controller, Rows], Sequence[WordMaps]] = lambda controller, rows: (),
    noise: Tensor | None = None,
    quiet: bool = False,
) -> Result:
    """Sample a source for each latent, and every edit of it, as planned with the model's `read`.

    `latent` is float[images channels height width]: zeros, or encoded images for a denoise below 1
    or an `inversion` of them. `noise`, of its shape, takes the place of the seed's. Raises
    `ValueError` for settings that are not the inversion's, and where what was sampled is not
    finite.
    """
    settings = settings or Settings()
    rows = Rows(len(latent), len(controller.branches))
    run = _Run(model, controller, rows, settings, negative, inversion)
    with torch.no_grad(), attached(model.pipeline.unet) as call:
        return run.sample(call, latent, noise, tuple(maps(controller, rows)), quiet)


class _Run:
    """One sampling run: its schedule, its texts, and which rows are whose."""

    def __init__(
        self,
        model: Model,
        controller: Controller,
        rows: Rows,
        settings: Settings,
        negative: str,
        inversion: Inversion | None,
    ) -> None:
        self.model, self.controller, self.rows = model, controller, rows
        self.settings, self.inversion = settings, inversion
        self.scheduler, self.levels = _schedule(model, settings)
        self.preserved = isclose(float(self.scheduler.init_noise_sigma), 1.0)
        """Whether the scheduler's latents keep their variance: x / √(1 + σ²)."""
        positive = model.encode([p.text for p in controller.prompts])
        self.positive = each_tensor(positive, rows.of_prompts)
        uncond = model.encode([negative])
        self.negative = repeated_rows(uncond, rows.total)
        if inversion is not None:
            check(inversion, model, controller, settings, self.levels, positive, uncond)
            if inversion.found.source_as_negative:
                self.negative = repeated_rows(
                    each_tensor(positive, lambda rows: rows[:1]), rows.total
                )
        self.edits: dict[Any, Any] = {}

    def sample(
        self,
        call: Call,
        latent: Tensor,
        noise: Tensor | None,
        maps: tuple[WordMaps, ...],
        quiet: bool,
    ) -> Result:
        model, rows, levels = self.model, self.rows, self.levels
        size = latent.shape[-2:]
        sides = cross_attention_sides(model.pipeline.unet)
        restored = self.inversion.restored if self.inversion else None
        blending = Blending(self.controller, rows, sides, size, levels, restored)
        looking = (*blending.maps.values(), *maps)
        start, noise = self._start(latent, noise)
        x = rows.of_sources(start)
        call.latent = (size[0], size[1])

        def noised(background: Tensor, sigma: float) -> Tensor:
            return background.to(x) * model.scale + sigma * noise

        generator = torch.Generator().manual_seed(self.settings.seed)
        takes = inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if "generator" in takes else {}
        timesteps = self.scheduler.timesteps
        for n, (sigma, sigma_next) in enumerate(tqdm(list(pairwise(levels)), disable=quiet)):
            blending.apply(x, sigma, noised)
            prediction = self._predict(call, x, sigma, looking)
            theirs = x * self._scale(sigma)
            self.scheduler.scale_model_input(theirs, timesteps[n])  # done already, but asked for
            with SharedNoise(rows.total, rows.sources):
                stepped = self.scheduler.step(prediction, timesteps[n], theirs, **extra)
            x = stepped.prev_sample / self._scale(sigma_next)
        blending.apply(x, levels[-1], noised, done=True)
        result = x / model.scale
        rows.check_finite(result)
        return Result(result[: rows.sources], result[rows.sources :], blending.all_masks())

    def _start(self, latent: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where sampling starts, in the sampler's space, and the noise in it."""
        device, sigma = self.model.device, self.levels[0]
        if noise is None:
            generator = torch.Generator().manual_seed(self.settings.seed)
            noise = torch.randn(latent.shape, generator=generator)
        noise, image = noise.to(device), latent.to(device) * self.model.scale
        if self.inversion is not None:
            self.inversion.check_latent(latent)
            return self.inversion.found.trajectory[0].to(device), noise
        return image + self._noise_level(sigma) * noise, noise

    def _noise_level(self, sigma: float) -> float:
        """How much noise sampling begins with at level σ.

        ComfyUI's rule: of a variance as in training at the model's last level, else as much as the
        level says. Somebody's scheduler begins as it does.
        """
        if not self.settings.named:
            return 1 / c_in(sigma) if self.preserved else float(self.scheduler.init_noise_sigma)
        return 1 / c_in(sigma) if sigma >= float(self.model.levels[-1]) * (1 - 1e-5) else sigma

    def _scale(self, sigma: float) -> float:
        """What makes latents in the sampler's space the scheduler's own, at level σ."""
        return c_in(sigma) if self.preserved else 1.0

    def _predict(self, call: Call, x: Tensor, sigma: float, maps: Sequence[WordMaps]) -> Tensor:
        """The guided prediction of every row, edited."""
        guided = not isclose(self.settings.cfg, 1.0)
        total, here = len(x), progress(sigma, self.levels)
        start = total if guided else 0
        call.cross, call.own = self._edits(here, start, x)
        call.looks = [Look(one, start, start + total, here) for one in maps]
        if not guided:
            return self.model.predict(x, sigma, self.positive)
        text = _joined(self._uncond(here), self.positive)
        uncond, prediction = self.model.predict(torch.cat([x, x]), sigma, text).chunk(2)
        difference = prediction - uncond
        if self.inversion is not None and self.inversion.proximal:
            difference = proximal(difference, self.inversion.proximal)
        return uncond + self.settings.cfg * difference

    def _uncond(self, here: float) -> Embedding:
        """The negative text at this progress."""
        found = None if self.inversion is None else self.inversion.found
        now = None if found is None else found.null_embeddings_at(here)
        if now is None:
            return self.negative
        return Embedding(self.rows.of_sources(now.to(self.negative.tokens)), self.negative.rest)

    def _edits(self, here: float, start: int, x: Tensor) -> Any:
        key = self.controller.weights(here)
        if key not in self.edits:
            self.edits.clear()
            parts = ((self.controller, self.rows, start),)
            made = CallEdits(parts, here, self.model.length).rows()
            self.edits[key] = joined(made, start + len(x), x.shape[-2:], x.device)
        return self.edits[key]


def _schedule(model: Model, settings: Settings) -> tuple[Any, list[float]]:
    """diffusers' scheduler, set, and its levels down to 0.

    A sampler by its name takes the model's own levels, somebody's scheduler has its own.
    """
    scheduler: Any = settings.scheduler
    if settings.named:
        scheduler = SAMPLERS[settings.sampler].from_config(model.pipeline.scheduler.config)
        levels = model.sigmas(settings.steps, settings.denoise, settings.scheduler)
        scheduler.set_timesteps(len(levels) - 1, device="cpu")
        scheduler.sigmas = torch.tensor(levels)
        scheduler.timesteps = torch.tensor([float(model.timestep(s)) for s in levels[:-1]])
        scheduler.set_begin_index(0)
        return scheduler, levels
    if settings.denoise < 1:
        raise ValueError(
            f"Expected a denoise of 1 for {type(scheduler).__name__}, which has timesteps of its "
            f"own, got {settings.denoise:g}. Choose a sampler by its name."
        )
    scheduler.set_timesteps(settings.steps, device="cpu")
    if hasattr(scheduler, "sigmas"):
        levels = [*(float(one) for one in scheduler.sigmas[: len(scheduler.timesteps)]), 0.0]
    else:
        levels = [*(float(model.levels[int(t)]) for t in scheduler.timesteps), 0.0]
    return scheduler, levels


def each_tensor(text: Embedding, change: Callable[[Tensor], Tensor]) -> Embedding:
    """Change each tensor that a text is made of."""
    return Embedding(change(text.tokens), None if text.rest is None else change(text.rest))


def repeated_rows(text: Embedding, count: int) -> Embedding:
    """Repeat one row of text for each of so many."""
    return each_tensor(text, lambda rows: rows.expand(count, *rows.shape[1:]))


def _joined(one: Embedding, other: Embedding) -> Embedding:
    rest = None if one.rest is None else torch.cat([one.rest, other.rest])
    return Embedding(torch.cat([one.tokens.to(other.tokens), other.tokens]), rest)
