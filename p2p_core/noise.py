"""One noise for a source and its edits, whoever draws it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy
import torch
from torch import Tensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,  # pyright: ignore[reportPrivateUsage]  # there is no public way
)

NEW = {
    torch.bernoulli,
    torch.normal,
    torch.rand,
    torch.rand_like,
    torch.randint,
    torch.randint_like,
    torch.randn,
    torch.randn_like,
    # PyTorch's distributions draw with this one
    torch._standard_gamma,  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
}
"""PyTorch's functions that draw a new tensor, of a size or like another tensor."""

IN_PLACE = {
    Tensor.bernoulli_,
    Tensor.cauchy_,
    Tensor.exponential_,
    Tensor.geometric_,
    Tensor.log_normal_,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
}
"""Those that fill the tensor that they are called on."""

FROM_NUMPY = {torch.asarray, torch.as_tensor, torch.tensor}
"""Those through which others' numbers come (and `from_numpy`, which no mode hears of)."""


class SharedNoise(TorchFunctionMode):
    """Share noise: while active, a batch's is drawn for its sources and repeated for their edits.

    The sources' noise is then what a run without edits draws from the same generator, whatever the
    sampler. What has the latents' dimensions counts as the batch's, at any height and width, and
    what ends in `widths` channels, as texts do: with one row for each of the batch's, or several
    batches one after another, as the branches of guidance stand in a call of the network.

    Args:
        rows: How many the batch has.
        sources: How many of them, the first ones, are sources.
        widths: Channels of texts and of what else has a row for each of the batch's.

    Raises `ValueError` where noise for the whole batch comes from NumPy, other for every row.
    """

    def __init__(self, rows: int, sources: int, widths: Iterable[int] = ()) -> None:
        super().__init__()
        self.rows, self.sources, self.widths = rows, sources, frozenset(widths)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in NEW and func not in IN_PLACE:
            result = func(*args, **kwargs)
            if func in FROM_NUMPY and any(
                isinstance(value, numpy.ndarray) for value in (*args, *kwargs.values())
            ):
                self._check(result)
            return result
        if func in (torch.rand, torch.randn) and args and isinstance(args[0], int):
            args = (args,)  # sizes may be given one by one
        cut = [self._sources(value) for value in args]
        named = {key: self._sources(value) for key, value in kwargs.items()}
        drawn = func(*cut, **named)
        changed = any(a is not b for a, b in zip(cut, args, strict=True))
        if not changed and all(named[key] is kwargs[key] for key in kwargs):
            return drawn
        filled = args[0] if func in IN_PLACE else kwargs.get("out")
        return self._repeat(drawn) if filled is None else filled.copy_(self._repeat(drawn))

    @contextmanager
    def left(self) -> Generator[None, None, None]:
        """Leave it for a while, as every call of PyTorch costs a little more under it.

        Does nothing where it is not the innermost mode: in another thread, or under somebody's.
        """
        if _get_current_function_mode() is not self:
            yield
            return
        self.__exit__(None, None, None)  # pyright: ignore[reportUnknownMemberType]
        try:
            yield
        finally:
            self.__enter__()

    def _of_the_batch(self, shape: Sequence[int]) -> bool:
        if len(shape) < 2 or not shape[0] or shape[0] % self.rows:
            return False
        return len(shape) == 4 or shape[-1] in self.widths

    def _sources(self, value: Any) -> Any:
        """A tensor of the batch → its sources' rows; a size of it → theirs; else the same value."""
        if isinstance(value, Tensor):
            if not self._of_the_batch(value.shape):
                return value
            branches = value.reshape(-1, self.rows, *value.shape[1:])
            cut = branches[:, : self.sources].flatten(0, 1)
            # numbers are drawn in memory's order, and the host's upscaling lays a row alone out
            # otherwise than rows of a batch
            return cut.contiguous() if self.sources == 1 else cut
        if isinstance(value, (tuple, list)):
            size = cast("Sequence[int]", value)
            if self._of_the_batch(size):
                return (size[0] // self.rows * self.sources, *size[1:])
        return cast("Any", value)

    def _repeat(self, noise: Tensor) -> Tensor:
        blocks = noise.reshape(-1, 1, self.sources, *noise.shape[1:])
        times = self.rows // self.sources
        return blocks.expand(-1, times, *[-1] * (blocks.ndim - 2)).flatten(0, 2)

    def _check(self, made: Tensor) -> None:
        if self._of_the_batch(made.shape) and not torch.equal(
            made, self._repeat(self._sources(made))
        ):
            raise ValueError(
                "Expected noise that PyTorch draws, got a batch of it from NumPy, which a source "
                "and its edits cannot share. Choose another kind of noise (in smZ Settings another "
                "RNG than nv) or a sampler that adds none."
            )
