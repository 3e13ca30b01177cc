"""Sampling source and edits side by side with diffusers' schedulers (paper Algorithm 1)."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ...attention_maps import WordMaps
from ...background import SourceValues
from ...blending import Blending
from ...calls import CallEdits, Held, Look
from ...controller import Chain, Controller, Rows, plan
from ...inversion.negative_prompt import proximal
from ...inversion.record import Inversion
from ...inversion.task import Embedding
from ...noise import SharedNoise
from ...schedules import progress
from .pipeline import Model
from .replaying import check
from .scheduling import course_of
from .settings import Settings


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
    model.check_latent(latent)
    run = _Run(model, controller, rows, settings, negative, inversion, latent.shape)
    with torch.no_grad(), model.attached() as call:
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
        size: torch.Size,
    ) -> None:
        self.model, self.controller, self.rows = model, controller, rows
        self.settings, self.inversion = settings, inversion
        self.course = course_of(model, settings, size)
        self.levels = self.course.levels
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
        call: Any,
        latent: Tensor,
        noise: Tensor | None,
        maps: tuple[WordMaps, ...],
        quiet: bool,
    ) -> Result:
        model, rows, levels = self.model, self.rows, self.levels
        size = latent.shape[-2:]
        restored = self.inversion.restored if self.inversion else None
        blending = Blending(self.controller, rows, model.sides, size, levels, restored)
        looking = (*blending.maps.values(), *maps)
        path, found = blending.path, None if self.inversion is None else self.inversion.found
        known = path is not None and not path.found.shared and bool(rows.edits)
        start, noise = self._start(latent, noise)
        x = rows.of_sources(start)

        def noised(background: Tensor, sigma: float) -> Tensor:
            return self.course.noised(model.inward(background.to(x)), noise, sigma)

        generator = torch.Generator().manual_seed(self.settings.seed)
        widths = {x.shape[-1]} if x.ndim > 4 else set[int]()
        for n, sigma in enumerate(tqdm(levels[:-1], disable=quiet)):
            blending.apply(x, sigma, noised)
            residual = None if found is None else found.residual_at(sigma, levels)
            beside = x if residual is None else x + rows.of_sources(residual.to(x))
            prediction = self._predict(call, beside, sigma, looking, blending.values, known)
            if residual is not None:
                prediction = model.moved(prediction, sigma, beside - x)
            with SharedNoise(rows.total, rows.sources, widths):
                x = self.course.step(n, prediction, x, generator=generator)
        blending.apply(x, levels[-1], noised, done=True)
        result = model.outward(x)
        rows.check_finite(result)
        return Result(result[: rows.sources], result[rows.sources :], blending.all_masks())

    def _start(self, latent: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where sampling starts, in the sampler's space, and the noise in it."""
        device = self.model.device
        if noise is None:
            generator = torch.Generator().manual_seed(self.settings.seed)
            noise = torch.randn(latent.shape, generator=generator)
        noise = noise.to(device)
        if self.inversion is not None:
            self.inversion.check_latent(latent)
            return self.inversion.found.trajectory[0].to(device), noise
        blank = not latent.any()
        image = latent.to(device) if blank else self.model.inward(latent.to(device))
        return self.course.begin(image, noise), noise

    def _predict(
        self,
        call: Any,
        x: Tensor,
        sigma: float,
        maps: Sequence[WordMaps],
        values: Mapping[int, Tensor],
        known: bool,
    ) -> Tensor:
        """The guided prediction of every row, edited.

        Branches take their source's values outside masks, `values`. Where sources are `known`, it
        is nothing for them, and their rows go through the network only for who looks at their
        attention.
        """
        guided = not isclose(self.settings.cfg, 1.0)
        here = progress(sigma, self.levels)
        looked_at = bool(maps) or bool(values) or self.controller.needs_source(here)
        needs = (False, looked_at) if guided else (looked_at,)
        held = Held.needed(self.rows, [need or not known for need in needs])
        text = joined_texts(self._uncond(here), self.positive) if guided else self.positive
        given = torch.cat([x, x]) if guided else x
        if known:
            given, text = held.cut(given), each_tensor(text, held.cut)
        prediction = call.predict(
            self._edits(call, here, held, given),
            [Look(one, *held.spans[-1], here) for one in maps],
            SourceValues.of([(values, held.rows[-1], held.spans[-1][0])], x.shape[-2]),
            given,
            sigma,
            text,
            self.controller.length,
            self.settings.guidance,
        )
        if known:
            prediction = held.filled(prediction, torch.zeros_like(prediction[: self.rows.sources]))
        if not guided:
            return prediction
        uncond, prediction = prediction.chunk(2)
        if self.inversion is not None and self.inversion.proximal:
            difference = proximal(prediction - uncond, self.inversion.proximal)
            return uncond + self.settings.cfg * difference
        return self.model.guided(uncond, prediction, self.settings.cfg)

    def _uncond(self, here: float) -> Embedding:
        """The negative text at this progress."""
        found = None if self.inversion is None else self.inversion.found
        now = None if found is None else found.null_embeddings_at(here)
        if now is None:
            return self.negative
        return Embedding(self.rows.of_sources(now.to(self.negative.tokens)), self.negative.rest)

    def _edits(self, call: Any, here: float, held: Held, x: Tensor) -> Any:
        key = (self.controller.weights(here), held)
        if key not in self.edits:
            self.edits.clear()
            parts = ((self.controller, held.rows[-1], held.spans[-1][0]),)
            edits = CallEdits(parts, here, self.controller.length)
            self.edits[key] = call.prepare(edits, x)
        return self.edits[key]


def each_tensor(text: Embedding, change: Callable[[Tensor], Tensor]) -> Embedding:
    """Change each tensor that a text is made of."""
    return Embedding(change(text.tokens), None if text.rest is None else change(text.rest))


def repeated_rows(text: Embedding, count: int) -> Embedding:
    """Repeat one row of text for each of so many."""
    return each_tensor(text, lambda rows: rows.expand(count, *rows.shape[1:]))


def joined_texts(one: Embedding, other: Embedding) -> Embedding:
    """Join rows of two texts, the shorter filled up where the longer says which tokens count."""
    length = max(text.tokens.shape[1] for text in (one, other))

    def filled(tensor: Tensor) -> Tensor:
        ends = length - tensor.shape[1]
        return F.pad(tensor, (0, 0, 0, ends) if tensor.ndim == 3 else (0, ends))

    tokens = torch.cat([filled(one.tokens).to(other.tokens), filled(other.tokens)])
    if one.rest is None:
        return Embedding(tokens)
    marks = one.rest.dtype == torch.bool
    rest = [filled(text.rest) if marks else text.rest for text in (one, other)]
    return Embedding(tokens, torch.cat(rest))
