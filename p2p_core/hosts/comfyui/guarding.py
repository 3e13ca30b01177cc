"""A conditioning that only this pack's samplers take: any other gives an error, not the source."""

from __future__ import annotations

from typing import Any, NoReturn

import comfy.conds

MODEL_CONDS = "model_conds"
"""The host's own: what a conditioning brings for the network beside its tokens."""

GUARD_KEY = "p2p_guard"

ANOTHER_SAMPLER = (
    "Expected a P2P KSampler or P2P Guider to sample the P2P Controller's positive output, got "
    "another sampler, which would give the source image alone. Connect it to one of those; for "
    "another sampler, encode the prompt with CLIP Text Encode."
)


class Guard(comfy.conds.CONDConstant):
    """Stands among what a conditioning brings for the network; whoever samples it gets the error.

    A sampler that knows nothing of rows would take the first prompt, the source, and say nothing.
    """

    def __init__(self, cond: str = ANOTHER_SAMPLER) -> None:
        super().__init__(cond)

    def process_cond(self, batch_size: int, **rest: Any) -> NoReturn:
        raise ValueError(self.cond)


def guarded(extra: dict[str, Any], error: str = ANOTHER_SAMPLER) -> dict[str, Any]:
    """Put the guard into a copy of a conditioning's dict; `error` is what it says."""
    return {**extra, MODEL_CONDS: {**extra.get(MODEL_CONDS, {}), GUARD_KEY: Guard(error)}}


def unguarded(extra: dict[str, Any]) -> dict[str, Any]:
    """Take the guard out of a copy of a conditioning's dict, as the host's own are."""
    rest = {k: v for k, v in extra.get(MODEL_CONDS, {}).items() if k != GUARD_KEY}
    plain = {key: value for key, value in extra.items() if key != MODEL_CONDS}
    return {**plain, MODEL_CONDS: rest} if rest else plain
