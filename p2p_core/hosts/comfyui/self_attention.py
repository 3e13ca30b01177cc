"""Self-attention injection: edited rows take the source row's queries and keys, not its values.

There are two ways in. `attn1_patch` comes before other extensions' patches, so that those that
shorten or cut the sequence do it to all rows alike, but the host holds what a patch returns until
the block ends, which shows in peak memory. Where nobody else is at self-attention, overriding the
attention function does the same and holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import Any

import torch
from torch import Tensor

CROSS_MARK = "p2p_cross"
"""In the options of everything that a cross-attention layer calls: not ours to inject into."""

OVERRIDE = "optimized_attention_override"
"""The host's single slot for a function in the place of its attention."""


@dataclass(frozen=True)
class SelfEdit:
    """Which rows of one call take whose self-attention, in layers up to which size.

    It is made before the network is called, which only looks it up: a compiler can trace that.
    """

    rows: int
    gathers: tuple[tuple[float, Tensor], ...]
    """(pixels of a layer that are too many, int64[rows]: whose queries and keys each row takes)."""

    @classmethod
    def of(
        cls,
        injected: Sequence[tuple[int, int, float]],
        rows: int,
        latent_pixels: int,
        device: torch.device,
    ) -> SelfEdit | None:
        """From each injected row, its source row and its reach (see `edits.SelfInjection`).

        A UNet halves sides and rounds up, so a layer of a quarter of an odd side is a little larger
        than that. It counts as a quarter: the next size has four times its pixels. None if there
        is nothing to inject.
        """
        gathers: list[tuple[float, Tensor]] = []
        for least in sorted({reach for *_, reach in injected}):
            gather = torch.arange(rows)
            for row, source, reach in injected:
                if reach >= least:
                    gather[row] = source
            side = 2.0 ** floor(log2(least * (1 + 1e-3)))
            gathers.append((2 * side**2 * latent_pixels, gather.to(device)))
        return cls(rows, tuple(gathers)) if gathers else None

    def gather(self, pixels: int) -> Tensor | None:
        """int64[rows]: whose queries and keys each row takes at `pixels` pixels; None: its own."""
        return next((gather for too_many, gather in self.gathers if pixels < too_many), None)

    def install(self, options: dict[str, Any]) -> None:
        """Into the transformer_options of one call; they and what they hold are not shared."""
        patches = options.get("patches", {})
        if patches.get("attn1_patch") or options.get("patches_replace", {}).get("attn1"):
            options["patches"] = {
                **patches,
                "attn1_patch": [self._patch, *patches.get("attn1_patch", [])],
            }
        else:
            options[OVERRIDE] = self._override(options.get(OVERRIDE))

    def _patch(
        self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.gather(n.shape[1])
        if context is not n or rows is None:
            return n, context, value
        swapped = n.index_select(0, rows)
        return swapped, swapped, value

    def _override(self, theirs: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def override(
            attention: Callable[..., Tensor],
            q: Tensor,
            k: Tensor,
            v: Tensor,
            *args: Any,
            **named: Any,
        ) -> Tensor:
            options = named.get("transformer_options") or {}
            if CROSS_MARK not in options and q.shape == k.shape and q.shape[0] == self.rows:
                rows = self.gather(q.shape[1])
                if rows is not None:
                    q, k = q.index_select(0, rows), k.index_select(0, rows)
            if theirs is not None:
                return theirs(attention, q, k, v, *args, **named)
            return attention(q, k, v, *args, **named)

        return override
