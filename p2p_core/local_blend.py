"""Local blend: the edit happens where the edited words are, the rest is the source's.

A mask is made of word maps while sampling runs, and the latent outside it is set back to the
source's after each step (paper section 4 and figure 12; the authors' LocalBlend).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_maps import check_sharpen, indicator, normalised
from .tokens import Prompt

LATENTS, VALUES, BOTH = "latents", "values", "both"
"""What outside the mask is the source's: latents after each step, values of attention, or both."""

MOST_SMOOTHING = 16
"""Cells: more would leave nothing of a map."""

LEAST_SIDE = 16
"""Cells a side that a map needs to outline an object: the paper's maps are 16×16."""


@dataclass(frozen=True)
class Columns:
    """Which of a prompt's tokens a local blend's words are: float[tokens], 0 or 1."""

    words: Tensor
    subtract: Tensor


@dataclass(frozen=True)
class LocalBlend:
    """What an edited image may change.

    `source_words` and `edited_words` make the mask, each looked up in its own prompt and seen in
    its own image; where `subtract_words` are is taken out of it, in the image of either prompt that
    has them. A map counts where it is above `threshold` of its maximum, widened by a cell first as
    in the authors' code; None is the threshold that parts its cells best (`otsu`), as they are.
    `smoothing` blurs maps before, by a Gaussian of so many of their cells, and `sharpen` says how
    often they are multiplied with their layer's self-attention. `softness` is the width of the ramp
    around the threshold, 0 a hard edge; `grow` widens the mask by so many latent cells, but not
    over what is subtracted. Blending begins when progress passes `start`. `user_mask`, float[images
    height width] in 0–1 of any size, is joined to the words' mask by `join`, or is the mask where
    there are no words. `background`, a latent, takes the source's place outside the mask (paper
    figure 12). `resolution` is the side of the layers that are looked at as a fraction of the
    latent's side, None for the coarsest ones of at least `LEAST_SIDE` cells a side.
    `keep_background` says what is the source's outside the mask: the latents after each step, the
    values of attention (see `background`), or both.

    Without words and mask, the words are those that the edits of its chain change and the nouns
    that they stand by (`controller.plan` finds them).

    Raises `ValueError` for numbers out of range, and for another `background` whose latents are not
    kept alone.
    """

    source_words: tuple[str, ...] = ()
    edited_words: tuple[str, ...] = ()
    subtract_words: tuple[str, ...] = ()
    threshold: float | None = 0.3
    start: float = 0.2
    softness: float = 0.0
    grow: int = 0
    user_mask: Tensor | None = None
    join: Literal["union", "intersection"] = "intersection"
    background: Tensor | None = None
    resolution: float | None = None
    smoothing: float = 0.0
    keep_background: str = LATENTS
    sharpen: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "start", "softness"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"Expected a {name} within 0 and 1, got {value:g}.")
        if not 0 <= self.smoothing <= MOST_SMOOTHING:
            raise ValueError(
                f"Expected smoothing by 0 to {MOST_SMOOTHING} cells of the map, got "
                f"{self.smoothing:g}. 1 is usual; 0 is none."
            )
        check_sharpen(self.sharpen)
        if self.grow < 0:
            raise ValueError(f"Expected to grow by 0 or more latent cells, got {self.grow}.")
        if self.join not in ("union", "intersection"):
            raise ValueError(f"Expected to join by union or intersection, got {self.join!r}.")
        if self.keep_background not in (LATENTS, VALUES, BOTH):
            raise ValueError(
                f"Expected to keep the background by {LATENTS}, {VALUES} or {BOTH}, got "
                f"{self.keep_background!r}."
            )
        if self.background is not None and self.keep_background != LATENTS:
            raise ValueError(
                f"Expected to keep the background by {LATENTS} where another takes its place, got "
                f"{self.keep_background}: values are the source's own. Disconnect the background, "
                f"or keep it by {LATENTS}."
            )

    @property
    def asks(self) -> bool:
        """Whether it has neither words nor a mask, and so wants the words that its edits change."""
        return self.user_mask is None and not (self.source_words or self.edited_words)

    @property
    def looks(self) -> bool:
        """Whether word maps are needed at all."""
        return bool(self.source_words or self.edited_words or self.subtract_words)

    def columns(self, source: Prompt, edited: Prompt) -> tuple[Columns, Columns]:
        """Find which tokens the words are, of the source prompt and of the edited one.

        Raises `ValueError` for a word that its prompt lacks, or to subtract that both lack.
        """
        for word in self.subtract_words:
            if word not in source:
                edited.tokens_of(word)  # raises where it is not there either, and says what is
        own, other = (
            Columns(
                indicator(prompt, words),
                indicator(prompt, [word for word in self.subtract_words if word in prompt]),
            )
            for prompt, words in ((source, self.source_words), (edited, self.edited_words))
        )
        return own, other

    def mask(
        self,
        source: Tensor,
        edited: Tensor,
        subtract: Sequence[Tensor],
        size: Sequence[int],
        frames: int = 1,
    ) -> Tensor:
        """Make the mask at the latent's size, 1 where the edit shows: float[images height width].

        The maps are float[images h w], of the source row, of the edited row, and of the words to
        subtract in each row whose prompt has them; those of words that are not given are ignored.
        `size` is the latent's (height, width). The frames of a video stand one below the other, in
        maps and mask.
        """
        size = (frames * size[0], size[1])
        source, edited, *subtract = (
            smoothed(maps, self.smoothing, frames) for maps in (source, edited, *subtract)
        )
        parts = [
            self._region(self._pooled(maps), size)
            for maps, words in ((source, self.source_words), (edited, self.edited_words))
            if words
        ]
        user = self._user(len(edited), size, edited, frames)
        mask = torch.stack(parts).amax(0) if parts else user
        if parts and self.user_mask is not None:
            mask = torch.maximum(mask, user) if self.join == "union" else mask * user
        if self.grow:
            mask = F.max_pool2d(mask[:, None], 2 * self.grow + 1, stride=1, padding=self.grow)[:, 0]
        if subtract:
            taken = torch.stack([self._region(maps, size) for maps in subtract]).amax(0)
            mask = mask * (1 - taken)
        return mask

    def _pooled(self, maps: Tensor) -> Tensor:
        """Widen maps by a cell, as the authors do; where Otsu finds the edge there is no need."""
        if self.threshold is None:
            return maps
        return F.max_pool2d(maps[:, None], 3, stride=1, padding=1)[:, 0]

    def _region(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        maps = normalised(maps)
        threshold = otsu(maps) if self.threshold is None else self.threshold
        maps = F.interpolate(maps[:, None], size)[:, 0]
        if not self.softness:
            return (maps > threshold).to(maps.dtype)
        return ((maps - threshold) / self.softness + 0.5).clamp(0, 1)

    def _user(self, images: int, size: tuple[int, int], like: Tensor, frames: int) -> Tensor:
        if self.user_mask is None:
            return like.new_ones(images, *size)
        frame = (size[0] // frames, size[1])
        mask = self.user_mask.to(like).reshape(-1, 1, *self.user_mask.shape[-2:])
        if mask.shape[0] not in (1, images):
            raise ValueError(
                f"Expected one mask or {images} (one for each source image), got {mask.shape[0]}."
            )
        mask = F.interpolate(mask, frame, mode="bilinear", align_corners=False)[:, 0]
        return mask.clamp(0, 1).repeat(1, frames, 1).expand(images, *size)


def smoothed(maps: Tensor, sigma: float, frames: int = 1) -> Tensor:
    """Blur maps by a Gaussian of `sigma` cells: float[rows height width], 0 leaves them alone.

    Frames stand one below the other and are blurred each by itself; edges are continued.
    """
    if not sigma:
        return maps
    reach = ceil(3 * sigma)
    cells = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-((cells / sigma) ** 2) / 2).exp()
    kernel = kernel / kernel.sum()
    apart = maps.reshape(-1, 1, maps.shape[-2] // frames, maps.shape[-1])
    apart = F.pad(apart, (reach,) * 4, mode="replicate")
    apart = F.conv2d(F.conv2d(apart, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return apart.view_as(maps)


def otsu(maps: Tensor) -> Tensor:
    """Find the threshold that parts each map's cells best into two kinds: float[rows 1 1].

    Otsu's, with the greatest variance between the two, over all cells and without a histogram. It
    lies halfway between the kinds.

    >>> otsu(torch.tensor([[[0.0, 0.1, 0.1], [0.2, 0.8, 1.0]]]))
    tensor([[[0.5000]]])
    """
    cells = maps.flatten(1).sort(1).values
    count = cells.shape[1]
    below = torch.arange(1, count, device=maps.device, dtype=maps.dtype)
    centred = cells - cells.mean(1, keepdim=True)
    sums = centred.cumsum(1)[:, :-1]
    between = sums**2 / (below * (count - below))
    last = between.argmax(1, keepdim=True)
    halfway = (cells.gather(1, last) + cells.gather(1, last + 1)) / 2
    return halfway[..., None]


def blend(latent: Tensor, background: Tensor, mask: Tensor) -> Tensor:
    """Take the latent inside the mask, the background outside: float[images channels … h w].

    background + mask · (latent − background), the mask being float[images (frames height) width],
    the frames of a video one below the other.
    """
    mask = mask.view(mask.shape[0], 1, *latent.shape[2:]).to(latent)
    return background + mask * (latent - background)


def chosen_side(sides: Sequence[float], latent_side: int, wanted: float | None) -> float:
    """Choose the side of the layers to look at, as a fraction of the latent's side.

    `sides` are the fractions that the model has. `wanted`, or the smallest of at least `LEAST_SIDE`
    cells a side, or the largest there is. Raises `ValueError` for a side that the model lacks.
    """
    if wanted is None:
        enough = [side for side in sides if side * latent_side >= LEAST_SIDE]
        return min(enough) if enough else max(sides)
    for side in sides:
        if abs(side - wanted) < 1e-3:
            return side
    raise ValueError(
        f"Expected layers whose side is one of {', '.join(f'{side:g}' for side in sides)} times "
        f"the latent's, got {wanted:g}: the model has no cross-attention there."
    )
