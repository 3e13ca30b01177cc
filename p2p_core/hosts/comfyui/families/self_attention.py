"""Self-attention of a UNet: whose queries and keys its rows take, and whose values where.

Edited rows take the source row's queries and keys while it is injected, and the source's values
outside a mask that keeps the background so.

There are two ways in. `attn1_patch` comes before other extensions' patches, so that those that
shorten or cut the sequence do it to all rows alike, but the host holds what a patch returns until
the block ends, which shows in peak memory. Where nobody else is at self-attention, overriding the
attention function does the same and holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ....attention import Attend, SelfEdit
from ....attention_maps import OwnAttention
from ....background import SourceValues
from .override import OVERRIDE

CROSS_MARK = "p2p_cross"
"""In the options of everything that a cross-attention layer calls: not ours to inject into."""


class Latest:
    """The queries and keys of the self-attention that came last, each [rows pixels channels]."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor] | None = None

    def see(self, q: Tensor, k: Tensor) -> None:
        """Keep them until they are taken, or others come."""
        self._seen = q, k

    def take(self, attention: Attend, pixels: int, heads: int) -> OwnAttention | None:
        """Give them out once; None where none came, or of another number of pixels."""
        seen, self._seen = self._seen, None
        if seen is None or seen[0].shape[1] != pixels:
            return None
        return OwnAttention(attention, *seen, heads)


def watch(latest: Latest, rows: int, options: dict[str, Any]) -> None:
    """Have self-attention seen as it is computed, whoever changes what goes into it."""
    theirs = options.get(OVERRIDE)

    def override(
        attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any
    ) -> Tensor:
        if _is_own(q, k, rows, named):
            latest.see(q, k)
        if theirs is not None:
            return theirs(attention, q, k, v, *args, **named)
        return attention(q, k, v, *args, **named)

    options[OVERRIDE] = override


def _is_own(q: Tensor, k: Tensor, rows: int, named: dict[str, Any]) -> bool:
    options = named.get("transformer_options") or {}
    return CROSS_MARK not in options and q.shape == k.shape and q.shape[0] == rows


def install(
    edit: SelfEdit | None, values: SourceValues | None, rows: int, options: dict[str, Any]
) -> None:
    """Into the transformer_options of one call of so many rows; what they hold is not shared."""
    patches = options.get("patches", {})
    if patches.get("attn1_patch") or options.get("patches_replace", {}).get("attn1"):
        options["patches"] = {
            **patches,
            "attn1_patch": [partial(_patch, edit, values), *patches.get("attn1_patch", [])],
        }
    else:
        options[OVERRIDE] = _override(edit, values, rows, options.get(OVERRIDE))


def _patch(
    edit: SelfEdit | None,
    values: SourceValues | None,
    n: Tensor,
    context: Tensor,
    value: Tensor,
    extra: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    if context is not n:
        return n, context, value
    if values is not None:  # what they are projected from: projecting is linear
        value = values.within(value, extra["activations_shape"][-2:])
    rows = None if edit is None else edit.gather(n.shape[1])
    if rows is None:
        return n, context, value
    swapped = n.index_select(0, rows)
    return swapped, swapped, value


def _override(
    edit: SelfEdit | None,
    values: SourceValues | None,
    total: int,
    theirs: Callable[..., Tensor] | None,
) -> Callable[..., Tensor]:
    def override(
        attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any
    ) -> Tensor:
        if _is_own(q, k, total, named):
            if values is not None:
                v = values.within(v, named["transformer_options"]["activations_shape"][-2:])
            rows = None if edit is None else edit.gather(q.shape[1])
            if rows is not None:
                q, k = q.index_select(0, rows), k.index_select(0, rows)
        if theirs is not None:
            return theirs(attention, q, k, v, *args, **named)
        return attention(q, k, v, *args, **named)

    return override
