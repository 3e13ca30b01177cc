"""One noise for a source and its edits, whoever draws it."""

from __future__ import annotations

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
