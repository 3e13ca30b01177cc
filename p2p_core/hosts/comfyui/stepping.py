"""The host's samplers with something done to, or seen of, their latents while they run.

What is wrapped last comes first: it is nearest to the host, and farthest from the sampler.
"""

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

    def sample(
        model: Any, x: Tensor, sigmas: Tensor, *args: Any, extra_args: Any, **named: Any
    ) -> Tensor:
        act = begin(model, extra_args.get("seed") or 0)

        def evaluate(x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
            act(x, float(sigma.flatten()[0]), False)
            return model(x, sigma, *args, **named)

        seen = _Seen(model, evaluate)
        result = function(seen, x, sigmas, *args, extra_args=extra_args, **named).clone()
        act(result, float(sigmas[-1]), True)
        return result

    return _with_function(sampler, sample)


def begun(sampler: Any, latents: Tensor) -> Any:
    """Copy one of the host's samplers so that it begins with latents of its own space.

    The host's scaling of noise knows no way from a flow model's first level back to these.
    """
    function = sampler.sampler_function

    def sample(model: Any, x: Tensor, *args: Any, **named: Any) -> Tensor:
        return function(model, latents.to(x).clone(), *args, **named)

    return _with_function(sampler, sample)


def asked_beside(sampler: Any, residual: Callable[[float], Tensor | None]) -> Any:
    """Copy one of the host's samplers so that the model is asked not about x but x + residual(σ).

    What it makes of that is put back by as much, so that a step goes along dx/dσ of there.
    """
    function = sampler.sampler_function

    def sample(model: Any, *args: Any, **named: Any) -> Tensor:
        def evaluate(x: Tensor, sigma: Tensor, *args: Any, **named: Any) -> Tensor:
            beside = residual(float(sigma.flatten()[0]))
            if beside is None or beside.shape != x.shape:  # which is then no whole latent
                return model(x, sigma, *args, **named)
            beside = beside.to(x)
            return model(x + beside, sigma, *args, **named) - beside

        return function(_Seen(model, evaluate), *args, **named)

    return _with_function(sampler, sample)


def _with_function(sampler: Any, function: Callable[..., Tensor]) -> Any:
    """Copy a sampler with another function under its own's name."""
    wrapped = copy.copy(sampler)
    wrapped.sampler_function = wraps(sampler.sampler_function)(function)
    return wrapped


class _Seen:
    """The model as a sampler sees it, evaluated otherwise."""

    def __init__(self, model: Any, evaluate: Callable[..., Tensor]) -> None:
        self._model, self._evaluate = model, evaluate

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        return self._evaluate(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
