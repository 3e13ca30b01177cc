"""One noise for a source and its edits, whatever the sampler."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SharedNoise(TorchFunctionMode):
    """While active, a whole batch's noise is drawn for its sources and repeated for their edits.

    The sources' noise is then what a run without edits draws from the same generator, whatever the
    sampler.
    """

    def __init__(self, rows: int, sources: int) -> None:
        super().__init__()
        self.rows, self.sources = rows, sources

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn_like and args[0].shape[:1] == (self.rows,):
            return self._repeat(func(args[0][: self.sources], *args[1:], **kwargs))
        if func is torch.randn:
            sizes = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            if len(sizes) > 1 and sizes[0] == self.rows:
                rest = {key: value for key, value in kwargs.items() if key != "size"}
                return self._repeat(func((self.sources, *sizes[1:]), **rest))
        return func(*args, **kwargs)

    def _repeat(self, noise: Tensor) -> Tensor:
        return noise.repeat(self.rows // self.sources, *[1] * (noise.ndim - 1))


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
