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
from einops import rearrange, repeat
from torch import Tensor

from .attention import Attend
from .tokens import Word


def indicator(words: Sequence[Sequence[Word]], tokens: int) -> Tensor:
    """Which tokens each row's words are: float32[rows tokens], 1 on the words' tokens."""
    columns = torch.zeros(len(words), tokens)
    for row, chosen in enumerate(words):
        columns[row, [t for word in chosen for t in word.tokens]] = 1.0
    return columns


def word_map(attention: Attend, q: Tensor, k: Tensor, columns: Tensor, heads: int) -> Tensor:
    """Attention of every pixel to a row's words: float[rows pixels].

    Summed over the words' tokens, meaned over heads. `columns` is float[rows tokens] as from
    `indicator`.
    """
    width = k.shape[-1] // heads
    value = torch.zeros(*k.shape[:2], heads, width, dtype=k.dtype, device=k.device)
    value[..., 0] = columns.to(k)[..., None]
    out = attention(q, k, rearrange(value, "rows tokens heads width -> rows tokens (heads width)"))
    return rearrange(out, "rows pixels (heads width) -> rows pixels heads width", heads=heads)[
        ..., 0
    ].mean(-1)


@dataclass
class MapSum:
    """Word maps of one run, added up over layers and steps."""

    columns: Tensor
    """float[rows tokens], see `indicator`."""
    side_ratio: float = 1.0
    """Layers whose side is this fraction of the latent's side are looked at."""
    total: Tensor | None = field(default=None, init=False)
    count: int = field(default=0, init=False)

    def add(self, maps: Tensor, height: int, width: int) -> None:
        """Add one layer's maps, float[rows pixels] of height × width pixels."""
        image = rearrange(maps.float(), "rows (h w) -> rows h w", h=height, w=width)
        self.total = image if self.total is None else self.total + image
        self.count += 1

    def mean(self) -> Tensor:
        """The mean map, float32[rows height width].

        Raises `ValueError` if no layer was looked at.
        """
        if self.total is None:
            raise ValueError(
                f"Expected attention maps of a side {self.side_ratio:g} times the latent's, got "
                "none: the model has no cross-attention there. Choose another resolution."
            )
        return self.total / self.count


def normalised(maps: Tensor) -> Tensor:
    """Each map divided by its maximum: float[rows height width] in 0–1."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def enlarged(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps at another resolution, bilinear: float[rows height width]."""
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def heatmap(maps: Tensor, image: Tensor) -> Tensor:
    """Maps in 0–1 laid over images as light on a darkened picture.

    Returns float[rows height width 3] in 0–1.
    """
    light = enlarged(maps, image.shape[1], image.shape[2])
    return image * (0.25 + 0.75 * repeat(light, "rows h w -> rows h w c", c=3))
