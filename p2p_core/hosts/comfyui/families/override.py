"""The host's one place for a function instead of its attention, and what a call there is.

Another extension's function that is there already is called in the place of the host's attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from einops import rearrange
from torch import Tensor

OVERRIDE = "optimized_attention_override"
"""The host's key for it, in transformer_options."""


@dataclass(frozen=True)
class Call:
    """One call of the host's attention.

    q, k and v are [rows tokens channels], heads joined, or [rows heads tokens channels].
    """

    attention: Callable[..., Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    mask: Tensor | None
    settings: dict[str, Any] = field(hash=False)
    skip_output_reshape: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The transformer_options that it came with."""
        return self.settings.get("transformer_options") or {}

    @property
    def rows(self) -> int:
        return self.q.shape[0]

    def given(self) -> Tensor:
        """Compute it as the host would."""
        return self.attention(
            self.q,
            self.k,
            self.v,
            self.heads,
            mask=self.mask,
            skip_output_reshape=self.skip_output_reshape,
            **self.settings,
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute other rows and queries of it: [rows queries channels], heads joined."""
        return self.attention(q, k, v, self.heads, mask=mask, **self.settings)

    def joined(self) -> Call:
        """Join the heads of q, k and v."""
        if self.q.ndim < 4:
            return self
        q, k, v = (rearrange(x, "r h n d -> r n (h d)") for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v, settings={**self.settings, "skip_reshape": False})

    def returned(self, out: Tensor) -> Tensor:
        """Give an output with joined heads the shape that the caller asked for."""
        if self.skip_output_reshape:
            return rearrange(out, "rows tokens (h d) -> rows h tokens d", h=self.heads)
        return out


def overriding(options: dict[str, Any], handle: Callable[[Call], Tensor]) -> Callable[..., Tensor]:
    """Make the function that hands every call of the host's attention to `handle`."""
    theirs = options.get(OVERRIDE)

    def override(
        attention: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **named: Any,
    ) -> Tensor:
        ours = attention if theirs is None else partial(theirs, attention)
        settings = {"attn_precision": attn_precision, "skip_reshape": skip_reshape, **named}
        if v.ndim > q.ndim:  # SD3's values come with their heads apart, its queries don't
            v = v.flatten(2)
        return handle(Call(ours, q, k, v, heads, mask, settings, skip_output_reshape))

    return override
