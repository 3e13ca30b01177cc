"""Looking at word maps while the host samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attention_maps import MapSum, word_map
from .attention import (
    Block,
    Replacement,
    cross_attention_blocks,
    host_attention,
    replace_attn2,
)
from .conditioning import Conditioning

VIEW_KEY = "p2p_viewer"
"""Marks a conditioning that is looked at, and is the key of the viewer's wrappers."""


def attach_viewer(model: Any, positive: Conditioning, maps: MapSum) -> tuple[Any, Conditioning]:
    """A clone of the model and a marked conditioning that add this run's word maps to `maps`."""
    blocks = cross_attention_blocks(model)
    patched = model.clone()

    def apply_model(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        cross: Any,
        control: Any,
        options: Any,
        **extra: Any,
    ) -> Any:
        chunk = x.shape[0] // len(options["uuids"])
        seen = [n for n, name in enumerate(options["uuids"]) if name in options.get(VIEW_KEY, ())]
        if seen:
            rows = slice(seen[0] * chunk, (seen[0] + 1) * chunk)
            options = _with_viewer(options, blocks, maps, rows, x)
        return executor(x, t, c_concat, cross, control, options, **extra)

    def start(
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        *rest: Any,
        **named: Any,
    ) -> Any:
        marked = {c["uuid"] for conds in guider.conds.values() for c in conds if VIEW_KEY in c}
        options = extra_args["model_options"]["transformer_options"]
        options[VIEW_KEY] = marked
        try:
            return executor(guider, sigmas, extra_args, *rest, **named)
        finally:
            del options[VIEW_KEY]

    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, VIEW_KEY, start)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, VIEW_KEY, apply_model)
    return patched, [[cond, {**extra, VIEW_KEY: True}] for cond, extra in positive]


def _with_viewer(
    options: dict[str, Any],
    blocks: Sequence[Block],
    maps: MapSum,
    rows: slice,
    x: Tensor,
) -> dict[str, Any]:
    height, width = (round(side * maps.side_ratio) for side in x.shape[-2:])

    def viewed(previous: Replacement | None) -> Replacement:
        def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            attention = host_attention(extra)
            if q.shape[1] == height * width:
                seen = word_map(attention, q[rows], k[rows], maps.columns, extra["n_heads"])
                maps.add(seen, height, width)
            return attention(q, k, v) if previous is None else previous(q, k, v, extra)

        return attn2

    return replace_attn2(options, blocks, viewed)
