"""What an edit is at a moment of sampling: the pair (inject, keep)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MapEdit:
    """M̂ = M_src · inject + M_edit · diag(keep). Made in float64, rounded once for use.

    Its two transforms commute: a chain's order matters for the text alone.
    """

    inject: Tensor
    """float[source_tokens edited_tokens]: carries the source's attention over."""
    keep: Tensor
    """float[edited_tokens]: the factor on the edited branch's own attention."""

    @classmethod
    def untouched(cls, source_tokens: int, edited_tokens: int) -> MapEdit:
        """The edited branch keeps its own attention."""
        return cls(
            torch.zeros(source_tokens, edited_tokens, dtype=torch.float64),
            torch.ones(edited_tokens, dtype=torch.float64),
        )

    def holding(self, mapper: Tensor, share: Tensor) -> MapEdit:
        """Hand a share of each token's own attention over to the source's.

        Per token j, with `share` in 0–1: inject[:, j] + share_j · keep_j · mapper[:, j], and
        (1 − share_j) · keep_j. Paper section 4, word swap and refinement.
        """
        return MapEdit(self.inject + share * self.keep * mapper, (1 - share) * self.keep)

    def scaled(self, equalizer: Tensor) -> MapEdit:
        """Each token's attention times its factor. Paper section 4, attention re-weighting."""
        return MapEdit(self.inject * equalizer, self.keep * equalizer)

    @property
    def is_untouched(self) -> bool:
        return not self.inject.any() and bool((self.keep == 1).all())

    def tiled(self, source: int, edited: int) -> MapEdit:
        """The same for prompts repeated `source` and `edited` times along their tokens.

        Hosts pad unequal lengths so. Repeating keys divides each copy's attention by the number of
        copies and leaves the output as it was.
        """
        return MapEdit(self.inject.repeat(source, edited) / edited, self.keep.repeat(edited))

    def to(self, dtype: torch.dtype) -> MapEdit:
        """The same, rounded."""
        return MapEdit(self.inject.to(dtype), self.keep.to(dtype))
