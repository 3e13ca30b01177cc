"""The host's samplers with something done to, or seen of, their latents while they run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

Act = Callable[[Tensor, float, bool], None]
"""Called with the latents, which it may change in place, their noise level, and whether sampling is
done: before every evaluation of the model, and once at the end."""


def stepped(sampler: Any, begin: Callable[[Any, int], Act]) -> Any:
    """Copy one of the host's samplers so that something is done at every evaluation.

    `begin` gets the model as a sampler sees it, and the seed, whenever sampling begins.
    """
    function = sampler.sampler_function

    @wraps(function)
    def sample(
        model: Any, noise: Tensor, sigmas: Tensor, *args: Any, extra_args: Any, **named: Any
    ) -> Tensor:
        act = begin(model, extra_args.get("seed") or 0)
        seen = _Seen(model, act)
        result = function(seen, noise, sigmas, *args, extra_args=extra_args, **named).clone()
        act(result, float(sigmas[-1]), True)
        return result

    wrapped = copy.copy(sampler)
    wrapped.sampler_function = sample
    return wrapped


class _Seen:
    """The model as a sampler sees it, something being done before it is evaluated."""

    def __init__(self, model: Any, act: Act) -> None:
        self._model, self._act = model, act

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
        self._act(x, float(sigma.flatten()[0]), False)
        return self._model(x, sigma, *args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
