"""Word maps: how much every pixel looks at chosen words (paper section 3.1, figures 3 and 4).

Computed only where someone looks at them. A map is one more attention call whose values are
indicators of the words' tokens, reduced at once over heads, so the full map of pixels × tokens
never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .attention import Attend
from .schedules import Window
from .tokens import Prompt

MOST_SHARPENING = 8
"""Times: after some, maps tell objects apart no better and only grow flat."""


def check_sharpen(times: int) -> None:
    """Raises `ValueError` for a number of times out of range."""
    if not 0 <= times <= MOST_SHARPENING:
        raise ValueError(
            f"Expected to sharpen maps 0 to {MOST_SHARPENING} times, got {times}. 0 is not at all."
        )


def indicator(prompt: Prompt, phrases: Sequence[str]) -> Tensor:
    """Mark the tokens of some words: float32[tokens], 1 on those of every phrase.

    Raises `ValueError` for a phrase that the prompt lacks.
    """
    columns = torch.zeros(prompt.length)
    for phrase in phrases:
        columns[prompt.tokens_of(phrase)] = 1.0
    return columns


def word_maps(attention: Attend, q: Tensor, k: Tensor, columns: Tensor, heads: int) -> Tensor:
    """Compute every pixel's attention to a row's words: float[rows looks pixels].

    `columns`, float[rows looks tokens], has an `indicator` for each look. Summed over the words'
    tokens, meaned over heads, which q and k may have apart: [rows heads tokens width]. One call of
    attention serves as many looks as a head has channels.
    """
    apart = k.ndim == 4
    width = k.shape[-1] if apart else k.shape[-1] // heads
    maps: list[Tensor] = []
    for first in range(0, columns.shape[1], width):
        some = columns[:, first : first + width].to(k)
        value = k.new_zeros(k.shape[0], k.shape[-2], k.shape[1] if apart else heads, width)
        value[..., : some.shape[1]] = rearrange(some, "rows looks tokens -> rows tokens 1 looks")
        order = "rows h tokens w" if apart else "rows tokens (h w)"
        out = attention(q, k, rearrange(value, f"rows tokens h w -> {order}"))
        out = rearrange(out, "rows pixels (h w) -> rows w pixels h", h=heads)
        maps.append(out[:, : some.shape[1]].mean(-1))
    return torch.cat(maps, dim=1)


@dataclass(frozen=True)
class OwnAttention:
    """How a layer's pixels look at each other, as it was computed: in edited rows, under the edit.

    q and k are [rows pixels channels], or with heads apart; `attention` takes some of their rows.
    """

    attention: Attend
    q: Tensor
    k: Tensor
    heads: int

    def sharpened(self, maps: Tensor, rows: slice, times: int) -> Tensor:
        """Carry maps to what looks alike, `times` over: float[rows looks pixels] of some rows.

        Each is self-attention with maps as its values, which stores nothing.
        """
        for _ in range(times):
            maps = word_maps(self.attention, self.q[rows], self.k[rows], maps, self.heads)
        return maps


@dataclass
class WordMaps:
    """Word maps of one run, added up over layers and steps, of some rows of one conditioning."""

    columns: Tensor
    """float[rows looks tokens]: for every row of the conditioning an `indicator` for each look."""
    side: float = 1.0
    """Layers whose side is this fraction of the latent's side are looked at."""
    by_step: bool = False
    """Whether to keep a sum for every progress of sampling."""
    sharpen: int = 0
    """How often each layer's maps are sharpened by its self-attention."""
    sums: dict[float, tuple[Tensor, int]] = field(
        default_factory=dict[float, tuple[Tensor, int]], init=False
    )

    def add(self, maps: Tensor, height: int, width: int, progress: float) -> None:
        """Add one layer's maps, float[rows looks pixels] of height × width pixels."""
        image = rearrange(maps.float(), "rows looks (h w) -> rows looks h w", h=height, w=width)
        key = progress if self.by_step else 0.0
        total, count = self.sums.get(key, (torch.zeros_like(image), 0))
        self.sums[key] = (total + image, count + 1)

    def mean(self, window: Window | None = None) -> Tensor:
        """Average the maps, float32[rows looks height width], of all steps or a window's.

        Raises `ValueError` if nothing was looked at.
        """
        chosen = [
            entry
            for progress, entry in self.sums.items()
            if window is None or window.weight(progress)
        ]
        if not chosen:
            raise ValueError(
                f"Expected attention maps of a side {self.side:g} times the latent's, got none. "
                "Choose another resolution or window, and a conditioning of the whole image, "
                "not of an area."
            )
        totals, counts = zip(*chosen, strict=True)
        return torch.stack(totals).sum(0) / sum(counts)


@dataclass(frozen=True)
class Seen:
    """A word's maps in one row: the mean, float[h w], and one for every step, float[steps h w]."""

    row: int
    word: str
    mean: Tensor
    steps: Tensor
    numbers: tuple[int, ...] = ()
    """Which step of the run each of `steps` is, from 1; left out, the first ones."""


def normalised(maps: Tensor) -> Tensor:
    """Divide each map by its maximum: float[... height width] in 0–1."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def enlarged(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps at another resolution, bilinear: float[rows height width]."""
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
