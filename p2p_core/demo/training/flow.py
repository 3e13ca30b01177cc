"""The joint-attention model's task: flow matching.

x = (1 − level) · picture + level · noise, and the model predicts the velocity noise − picture.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..architecture import CONFIG
from ..scenes import SIZE
from .loop import DEVICE

EVEN = 8
"""One level in so many is drawn evenly from 0–1: log-normal ones hardly come near the ends."""


def levels(count: int) -> Tensor:
    """Draw random noise levels, spread over their distribution: float[count] in 0–1.

    Log-normal (Esser et al. 2024, *rf/lognorm(0, 1)*), but for one in `EVEN`.
    """
    even = _spread(count // EVEN)
    normal = torch.special.ndtri(_spread(count - count // EVEN))
    return torch.cat([even, normal.sigmoid()]).to(DEVICE)


def _spread(count: int) -> Tensor:
    return ((torch.arange(count) + torch.rand(count)) / max(count, 1)).clamp(1e-5, 1 - 1e-5)


def noised(x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise to latents at random levels: (x, level, velocity)."""
    level = levels(len(x0))
    noise = torch.randn_like(x0)
    return torch.lerp(x0, noise, level[:, None, None, None]), level, noise - x0


@torch.inference_mode()
def sample_latents(
    model: nn.Module, ids: Tensor, empty: Tensor, guidance: float = 3.0, steps: int = 30
) -> Tensor:
    """Sample by Euler from seed 0, to look at a model while it trains: float[prompts 4 h w]."""
    side, channels = SIZE // 8, CONFIG["autoencoder"]["latent_channels"]
    x = torch.randn(len(ids), channels, side, side, generator=torch.manual_seed(0)).to(DEVICE)
    both = torch.cat([ids, empty.expand_as(ids)])
    for now, after in pairwise(torch.linspace(1, 0, steps + 1)):
        level = now.expand(len(both)).to(DEVICE)
        v, v_empty = model(torch.cat([x, x]), level, both).float().chunk(2)
        x = x + (after - now) * (v_empty + guidance * (v - v_empty))
    return x
