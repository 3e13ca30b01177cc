"""Which of the host's samplers draw noise that a source and its edits must share."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from ...noise import SharedNoise


def shared_noise(sampler: Any, noise: Tensor, sources: int) -> Any:
    """`SharedNoise` for samplers that draw noise while they run.

    Nothing for the others, which need not pay for it.
    """
    function = getattr(sampler, "sampler_function", None)
    takes_noise = function is not None and "noise_sampler" in inspect.signature(function).parameters
    churns = getattr(sampler, "extra_options", {}).get("s_churn", 0) > 0
    repaints = getattr(sampler, "inpaint_options", {}).get("random", False)
    if takes_noise or churns or repaints:
        return SharedNoise(noise.shape[0], sources)
    return nullcontext()
