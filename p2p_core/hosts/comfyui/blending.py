"""What is set in a sampler's latents while it runs: local blends, and sources put back.

A sampler's own x is changed in place whenever it evaluates the network at a level of the schedule,
and once more when it is done: for Euler that is the authors' loop, blending after every step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import wraps
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...attention_maps import WordMaps
from ...controller import Controller, Rows
from ...inversion.task import Found
from ...local_blend import LocalBlend, blend, chosen_side
from ...schedules import progress


class Blending:
    """The local blends of one run: the maps that they need and the masks that come of them.

    With an inversion to be put back, its trajectory having every level of `sigmas`, the sources are
    first set to it, and the edits moved alongside where that is shared (direct inversion).
    """

    def __init__(
        self,
        controller: Controller,
        rows: Rows,
        sides: Sequence[float],
        size: torch.Size,
        sigmas: Sequence[float],
        put_back: Found | None = None,
    ) -> None:
        self.rows, self.sigmas, self.size = rows, sigmas, size
        self.put_back = put_back
        self.blends = {
            n: branch.blend
            for n, branch in enumerate(controller.branches)
            if branch.blend is not None
        }
        self.maps = {
            n: WordMaps(
                _columns(controller, rows, n, wanted),
                chosen_side(sides, min(size), wanted.resolution),
            )
            for n, wanted in self.blends.items()
            if wanted.looks
        }
        self.masks: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.blends) or self.put_back is not None

    def apply(self, x: Tensor, sigma: float, model: Any, seed: int, done: bool = False) -> None:
        """Blend the sampler's x, float[rows channels height width], at a noise level, in place.

        Until there are word maps it is left alone; raises `ValueError` if sampling is `done` and
        there are none.
        """
        here = progress(sigma, self.sigmas)
        sources, edits = list(self.rows.block(-1)), self.rows.block
        if self.put_back is not None:
            level = min(range(len(self.sigmas)), key=lambda n: abs(self.sigmas[n] - sigma))
            path = self.put_back.trajectory[level].to(x)
            if self.put_back.shared:
                x += (path - x[sources]).repeat(1 + self.rows.edits, 1, 1, 1)
            x[sources] = path
        for n, wanted in self.blends.items():
            unseen = n in self.maps and not self.maps[n].sums
            if here <= wanted.start + 1e-6 or (unseen and not done):
                continue
            source = edited = subtract = x.new_zeros(self.rows.sources, 1, 1)
            if n in self.maps:
                seen = self.maps[n].mean()
                source, edited, subtract = (
                    seen[sources, 0],
                    seen[list(edits(n)), 1],
                    seen[list(edits(n)), 2],
                )
            mask = wanted.mask(source, edited, subtract, self.size)
            background = x[sources]
            if wanted.background is not None:
                background = _noised(wanted.background, sigma, model, sources, seed)
            block = list(edits(n))
            x[block] = blend(x[block], background.to(x), mask)
            self.masks[n] = mask

    def wrap(self, sampler: Any) -> Any:
        """A copy of the host's sampler that blends; raises `ValueError` for one that cannot."""
        function = getattr(sampler, "sampler_function", None)
        if function is None:
            raise ValueError(
                "Expected one of ComfyUI's own samplers for a local blend or direct inversion, got "
                f"{type(sampler).__name__}. Choose another sampler or leave them out."
            )

        @wraps(function)
        def blended(
            model: Any, noise: Tensor, sigmas: Tensor, *args: Any, extra_args: Any, **named: Any
        ) -> Tensor:
            seed = extra_args.get("seed") or 0
            proxy = _Blended(model, self, seed)
            result = function(proxy, noise, sigmas, *args, extra_args=extra_args, **named).clone()
            self.apply(result, float(sigmas[-1]), model, seed, done=True)
            return result

        wrapped = copy.copy(sampler)
        wrapped.sampler_function = blended
        return wrapped

    def on_grid(self, sigma: float) -> bool:
        """Whether the sampler is at one of the schedule's levels, not between two."""
        return any(abs(sigma - level) <= 1e-4 * level for level in self.sigmas)


class _Blended:
    """The model as a sampler sees it, blending x before it is evaluated."""

    def __init__(self, model: Any, blending: Blending, seed: int) -> None:
        self._model, self._blending, self._seed = model, blending, seed

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
        level = float(sigma.flatten()[0])
        if self._blending.on_grid(level):
            self._blending.apply(x, level, self._model, self._seed)
        return self._model(x, sigma, *args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _columns(controller: Controller, rows: Rows, branch: int, wanted: LocalBlend) -> Tensor:
    """Three looks, float[rows 3 tokens]: source words, edited words, words to subtract."""
    source, edited = controller.source, controller.branches[branch].edited
    columns = torch.zeros(rows.total, 3, controller.length)
    own, words, subtract = wanted.columns(source, edited)
    columns[list(rows.block(-1)), 0] = own.repeat(controller.length // source.length)
    columns[list(rows.block(branch)), 1] = words.repeat(controller.length // edited.length)
    columns[list(rows.block(branch)), 2] = subtract.repeat(controller.length // edited.length)
    return columns


def _noised(latent: Tensor, sigma: float, model: Any, sources: Sequence[int], seed: int) -> Tensor:
    """A clean latent at the noise level, with the noise that the run began with.

    A run that goes on from another's adds none: then with the noise of its seed.
    """
    base = model.inner_model.inner_model
    noise = model.noise[list(sources)]
    if not noise.any():
        noise = comfy.sample.prepare_noise(noise, seed).to(noise)
    if latent.shape[-3:] != noise.shape[-3:] or latent.shape[0] not in (1, len(sources)):
        raise ValueError(
            f"Expected a background latent of shape {list(noise.shape)}, got "
            f"{list(latent.shape)}. Encode an image of the size that is sampled."
        )
    clean = base.process_latent_in(latent.to(noise)).expand_as(noise)
    level = torch.tensor(sigma, device=noise.device, dtype=noise.dtype)
    return base.model_sampling.noise_scaling(level, noise, clean)
