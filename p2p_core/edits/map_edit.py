"""What an edit is at a moment of sampling: the pair (inject, keep), and factors on words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MapEdit:
    """M̂ = (M_src · inject + M_edit · diag(keep)) · diag(equalizer).

    Made in float64, rounded once for use. Its transforms commute: a chain's order matters for the
    text alone.

    Token 0 takes a half of the source's attention, token 1 all of it, twice as strong:

    >>> edit = MapEdit.untouched(2, 2).holding(torch.eye(2), torch.tensor([0.5, 1.0]))
    >>> now = edit.equalized(torch.tensor([1.0, 2.0])).multiplied
    >>> now.inject, now.keep
    (tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64), tensor([0.5000, 0.0000], dtype=torch.float64))
    """

    inject: Tensor
    """float[source_tokens edited_tokens]: carries the source's attention over."""
    keep: Tensor
    """float[edited_tokens]: the share of the edited branch's own attention."""
    equalizer: Tensor
    """float[edited_tokens]: the factor on each token's attention, whose ever it is."""

    @classmethod
    def untouched(cls, source_tokens: int, edited_tokens: int) -> MapEdit:
        """Make the map edit under which a branch keeps its own attention."""
        return cls(
            torch.zeros(source_tokens, edited_tokens, dtype=torch.float64),
            torch.ones(edited_tokens, dtype=torch.float64),
            torch.ones(edited_tokens, dtype=torch.float64),
        )

    def holding(self, mapper: Tensor, share: Tensor) -> MapEdit:
        """Hand a share of each token's own attention over to the source's.

        Per token j, with `share` in 0–1: inject[:, j] + share_j · keep_j · mapper[:, j], and
        (1 − share_j) · keep_j. Paper section 4, word swap and refinement.
        """
        inject = self.inject + share * self.keep * mapper
        return replace(self, inject=inject, keep=(1 - share) * self.keep)

    def scaled(self, share: Tensor) -> MapEdit:
        """Take a share of each token's attention, whose ever it is; other tokens get the rest."""
        return replace(self, inject=self.inject * share, keep=self.keep * share)

    def equalized(self, equalizer: Tensor) -> MapEdit:
        """Multiply each token's attention with its factor (paper section 4, re-weighting)."""
        return replace(self, equalizer=self.equalizer * equalizer)

    @property
    def multiplied(self) -> MapEdit:
        """The same map with the factors in inject and keep, as the paper multiplies them."""
        return MapEdit(
            self.inject * self.equalizer,
            self.keep * self.equalizer,
            torch.ones_like(self.equalizer),
        )

    @property
    def is_untouched(self) -> bool:
        whole = (self.keep == 1).all() and (self.equalizer == 1).all()
        return bool(whole) and not self.inject.any()

    def tiled(self, source: int, edited: int) -> MapEdit:
        """Repeat it for prompts repeated `source` and `edited` times along their tokens.

        Hosts pad unequal lengths so. Repeating keys divides each copy's attention by the number of
        copies and leaves the output as it was.
        """
        return MapEdit(
            self.inject.repeat(source, edited) / edited,
            self.keep.repeat(edited),
            self.equalizer.repeat(edited),
        )

    def padded(self, source: int, edited: int) -> MapEdit:
        """Lengthen it for so many tokens more, which keep their own attention."""
        return MapEdit(
            F.pad(self.inject, (0, edited, 0, source)),
            F.pad(self.keep, (0, edited), value=1.0),
            F.pad(self.equalizer, (0, edited), value=1.0),
        )

    def to(self, dtype: torch.dtype) -> MapEdit:
        """Round it."""
        return MapEdit(self.inject.to(dtype), self.keep.to(dtype), self.equalizer.to(dtype))
