"""What host tests sample, and how they compare."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

PROMPT = "a red circle on the grass"


@dataclass(frozen=True)
class Settings:
    """One sampling run; small, because what is compared is exact.

    Where a picture is near a fork, between two shapes for instance, rounding grows from step to
    step: with seed 5 the stock sampler's own runs in batches of 1 and of 2 differ by 1e-5, with
    this seed by 1e-6.
    """

    seed: int = 0
    steps: int = 5
    cfg: float = 3.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    denoise: float = 1.0


def run_of(model: Any, encoded: Any, latent: dict[str, Any], **settings: Any) -> Any:
    """A run to be looked at, of the sampling function's arguments, as a node gives it out."""
    from p2p_core.hosts.comfyui.sampling import sample
    from p2p_core.hosts.comfyui.viewing import Run

    return Run(model, encoded, latent, partial(sample, model, encoded, latent=latent, **settings))


def call(node: Any, *args: Any, **named: Any) -> Any:
    """A stock node's outputs, of either of the host's schemas."""
    if not hasattr(node, "execute"):
        return getattr(node(), node.FUNCTION)(*args, **named)
    output = node.execute(*args, **named)
    return getattr(output, "args", output)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of `b`."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())
