"""Values outside a mask: an edited image keeps its background by reading the source's there.

Attention says where a pixel looks, values say what it finds. Where a local blend's mask is known,
the edited row's image values outside it are the source's in self- and joint attention, inside they
stay its own (ConsistEdit 2025). Nothing is pasted, so there is no seam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .controller import Rows


@dataclass(frozen=True)
class SourceValues:
    """Which rows of one call of the network take whose values, and where they keep their own.

    >>> mask = torch.tensor([[[[1.0, 0.0]]]])
    >>> kept = SourceValues(rows=(1,), sources=(0,), masks=mask)
    >>> kept.within(torch.tensor([[[1], [2]], [[3], [4]]]).float(), (1, 2)).flatten()
    tensor([1., 2., 3., 2.])
    """

    rows: tuple[int, ...]
    sources: tuple[int, ...]
    masks: Tensor
    """float[rows frames height width], 0–1 at the latent's size: 1 where values are a row's own."""

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Mapping[int, Tensor], Rows, int]], height: int
    ) -> SourceValues | None:
        """Make those of a call on latents of a height; None where there is no mask.

        Each part has masks by branch, float[sources (frames height) width], its rows, and at which
        row of the call they begin.
        """
        pairs: list[tuple[int, int]] = []
        masks: list[Tensor] = []
        for by_branch, rows, start in parts:
            for branch, mask in by_branch.items():
                pairs += [(start + row, start + source) for row, source in rows.pairs(branch)]
                masks.append(mask.view(len(mask), -1, height, mask.shape[-1]))
        if not pairs:
            return None
        edited, sources = zip(*pairs, strict=True)
        return cls(edited, sources, torch.cat(masks))

    def within(self, v: Tensor, grid: Sequence[int], image: slice | None = None) -> Tensor:
        """Give values of a layer their source's outside the masks: [rows (heads) tokens channels].

        `grid` are the (frames,) height and width that the tokens form, those of `image` where there
        are others. A cell of a coarse layer is outside where all that it covers is.
        """
        sizes = (*(1,) * (3 - len(grid)), *grid)
        masks = F.adaptive_max_pool3d(self.masks[:, None].float(), sizes).to(v)
        masks = masks.reshape(len(self.rows), *(1,) * (v.ndim - 3), -1, 1)
        result = v.clone()
        part = result[..., image or slice(None), :]
        part[list(self.rows)] = torch.lerp(
            part[list(self.sources)], part[list(self.rows)], masks.expand_as(part[: len(masks)])
        )
        return result
