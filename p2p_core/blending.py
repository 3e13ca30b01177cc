"""What is set in a sampler's latents while it runs: local blends, and sources restored.

The latents are changed in place at every noise level of the schedule before the network is asked,
and once more at the end: for Euler's method that is the authors' loop, blending after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .attention_maps import WordMaps
from .controller import Controller, Rows
from .inversion.path import Path
from .inversion.task import Found
from .local_blend import LATENTS, VALUES, LocalBlend, blend, chosen_side
from .schedules import progress

Noised = Callable[[Tensor, float], Tensor]
"""(a background latent, σ) → it as sampling's latents are at that level, one row a source."""


class Blending:
    """The local blends of one run: the maps that they need and the masks that come of them.

    With an inversion to be restored, its trajectory having every level of `sigmas`, the sources are
    first set to it, and the edits moved alongside where that is shared (direct inversion).
    """

    def __init__(
        self,
        controller: Controller,
        rows: Rows,
        sides: Sequence[float],
        size: torch.Size,
        sigmas: Sequence[float],
        restore_source: Found | None = None,
    ) -> None:
        self.rows, self.sigmas, self.size = rows, sigmas, size
        self.path = None if restore_source is None else Path(restore_source, sigmas)
        self.blends = {
            n: branch.blend
            for n, branch in enumerate(controller.branches)
            if branch.blend is not None
        }
        self.maps = {
            n: WordMaps(
                _columns(controller, rows, n, wanted),
                chosen_side(sides, min(size), wanted.resolution),
                sharpen=wanted.sharpen,
            )
            for n, wanted in self.blends.items()
            if wanted.looks
        }
        self.masks: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        """Masks of branches that take their source's values outside them, as they are now."""

    def __bool__(self) -> bool:
        return bool(self.blends) or self.path is not None

    def apply(self, x: Tensor, sigma: float, noised: Noised, done: bool = False) -> None:
        """Blend latents x = image + σ · noise, float[rows channels height width], in place.

        Until there are word maps it is left alone; raises `ValueError` if sampling is `done` and
        there are none, and for latents of another size than sampling began with.
        """
        if x.shape[-2:] != self.size:
            raise ValueError(
                f"Expected latents of {self.size[0]}×{self.size[1]} for a local blend or an "
                f"inversion, got {x.shape[-2]}×{x.shape[-1]}: the sampler changes their size. "
                "Choose another sampler, or leave the blend or inversion out."
            )
        here = progress(sigma, self.sigmas)
        sources = self.rows.source_block
        if self.path is not None:
            self._restore(self.path, x, sigma, done)
        if not done and not self.on_grid(sigma):
            return
        for n, wanted in self.blends.items():
            unseen = n in self.maps and not self.maps[n].sums
            if here <= wanted.start + 1e-6 or (unseen and not done):
                continue
            block = self.rows.block(n)
            frames = x.shape[2] if x.ndim == 5 else 1
            source = edited = x.new_zeros(self.rows.sources, 1, 1)
            subtract: list[Tensor] = []
            if n in self.maps:
                seen, columns = self.maps[n].mean(), self.maps[n].columns
                source, edited = seen[sources, 0], seen[block, 1]
                subtract = [seen[rows, 2] for rows in (sources, block) if columns[rows, 2].any()]
            mask = wanted.mask(source, edited, subtract, self.size, frames)
            self.masks[n] = mask
            if wanted.keep_background != LATENTS:
                self.values[n] = mask
            if wanted.keep_background == VALUES:
                continue
            background = x[sources]
            if wanted.background is not None:
                background = noised(wanted.background, sigma)
            x[block] = blend(x[block], background.to(x), mask)

    def _restore(self, path: Path, x: Tensor, sigma: float, done: bool) -> None:
        """Set the sources to their path, in place, and move the edits alongside where shared."""
        sources = self.rows.source_block
        if not done:
            path.start(x[sources], sigma)
        latents = path.finished(sigma) if done else path.at(sigma)
        if latents is None:
            return
        latents = latents.to(x)
        if path.found.shared:
            x += self.rows.of_sources(latents - x[sources])
        x[sources] = latents

    def wants(self, sigma: float) -> bool:
        """Tell whether anything is set in the latents that are evaluated at this level."""
        every = self.path is not None and self.path.found.levels is not None
        return every or self.on_grid(sigma)

    def all_masks(self) -> Tensor:
        """Give every edited image's mask, edit by edit: ones without a blend.

        float[images height width], of a video one for each frame.
        """
        tall = next(iter(self.masks.values())).shape[1] if self.masks else self.size[0]
        ones = torch.ones(self.rows.sources, tall, self.size[1])
        masks = [self.masks.get(n, ones).cpu().float() for n in range(self.rows.edits)]
        return torch.cat([ones[:0], *masks]).view(-1, *self.size)

    def on_grid(self, sigma: float) -> bool:
        """Tell whether the sampler is at one of the schedule's levels, not between two."""
        return any(abs(sigma - level) <= 1e-4 * level for level in self.sigmas)


def _columns(controller: Controller, rows: Rows, branch: int, wanted: LocalBlend) -> Tensor:
    """Three looks, float[rows 3 tokens]: source words, edited words, words to subtract."""
    source, edited = controller.source, controller.branches[branch].edited
    columns = torch.zeros(rows.total, 3, controller.length)
    for look, own in enumerate(wanted.columns(source, edited)):
        block = (rows.source_block, rows.block(branch))[look]
        columns[block, look] = controller.fitted(own.words)
        columns[block, 2] = controller.fitted(own.subtract)
    return columns
