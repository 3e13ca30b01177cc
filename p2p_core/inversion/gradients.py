"""Gradients through a network that a host loaded for sampling alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@contextmanager
def trainable(
    network: torch.nn.Module, blocks: Sequence[torch.nn.Module], low_memory: bool
) -> Iterator[None]:
    """Let gradients pass through a network whose weights want none, while the context lasts.

    With `low_memory` the insides of its transformer `blocks` are evaluated again for them.
    Weights made in inference mode are exchanged for clones, which stay: they are the same numbers.
    """
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_inference():
                    clone = tensor.clone()
                    if isinstance(tensor, torch.nn.Parameter):
                        clone = torch.nn.Parameter(clone, tensor.requires_grad)
                    tensors[name] = clone  # pyright: ignore[reportArgumentType]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for block in blocks if low_memory else []:
            block.forward = partial(recomputed, block.forward)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for block in blocks if low_memory else []:
            del block.forward


def recomputed(forward: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
    """Evaluate a block; under gradients its insides are forgotten and evaluated again.

    What it was called with is kept as it was: hosts write the next block's name into the options
    that they passed. PyTorch's own checkpoints keep the options themselves, and hide that a tensor
    was modified in place after it had been saved, which makes wrong gradients.
    """
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    values = {**dict(enumerate(args)), **named}
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    kept = {
        key: dict(value) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType]
        for key, value in values.items()
        if key not in tensors
    }

    def call(*given: Tensor) -> Tensor:
        now = {**kept, **dict(zip(tensors, given, strict=True))}
        return forward(*(now[n] for n in range(len(args))), **{name: now[name] for name in named})

    output: Any = _Recomputed.apply(call, *tensors.values())
    return output


class _Recomputed(torch.autograd.Function):
    """A function of tensors, evaluated a second time for its gradients, with the same draws."""

    @staticmethod
    def forward(context: Any, call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        context.call = call
        context.save_for_backward(*tensors)
        context.devices = sorted({one.get_device() for one in tensors if one.is_cuda})
        context.random = _random_states(context.devices)
        return call(*tensors)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = context.needs_input_grad[1:]
        inputs = [
            tensor.detach().requires_grad_(want)
            for tensor, want in zip(context.saved_tensors, wanted, strict=True)
        ]
        state, *states = context.random
        with torch.random.fork_rng(context.devices), torch.enable_grad():
            torch.set_rng_state(state)
            for device, there in zip(context.devices, states, strict=True):
                torch.cuda.set_rng_state(there, device)
            output = context.call(*inputs)
        to = [one for one in inputs if one.requires_grad]
        found = iter(torch.autograd.grad(output, to, slope, allow_unused=True))
        return None, *(next(found) if want else None for want in wanted)


def _random_states(devices: Sequence[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


@contextmanager
def modified_in_place(network: torch.nn.Module) -> Iterator[None]:
    """Leave gradients right through a network that modifies its own activations in place.

    They are kept as they were, in copies; weights, which stay, are not copied.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def kept(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in weights else tensor.clone()

    with saved_tensors_hooks(kept, lambda tensor: tensor):
        yield


def modifying(patch: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a host's patch so that what it modifies in place leaves gradients right."""

    def patched(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return patch(*args, **named)
        own = [one.clone() if isinstance(one, Tensor) else one for one in args]
        with saved_tensors_hooks(Tensor.clone, lambda tensor: tensor):
            return patch(*own, **named)

    return patched
