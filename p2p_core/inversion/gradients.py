"""Gradients through a network that a host loaded for sampling alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@contextmanager
def trainable(
    network: torch.nn.Module, blocks: Sequence[torch.nn.Module], low_memory: bool
) -> Iterator[None]:
    """While it lasts, gradients pass through a network whose weights want none.

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
            block.forward = partial(_recomputed, block.forward)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for block in blocks if low_memory else []:
            del block.forward


def _recomputed(forward: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
    """A block's output; under gradients its insides are forgotten and evaluated again."""
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    output: Any = checkpoint(forward, *args, use_reentrant=False, **named)
    return output
