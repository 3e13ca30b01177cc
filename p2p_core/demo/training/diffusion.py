"""The UNet's task: v-prediction on SD1's noise schedule."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..architecture import CONFIG
from ..scenes import SIZE
from .loop import DEVICE

SHAPING = (150, 650)
"""Timesteps at which an object's place shows through the noise and its shape does not.

They are drawn twice as often as the others.
"""


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """Compute SD1's schedule: √ᾱ and √(1 − ᾱ) for 1000 timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return alphas.sqrt().float().to(DEVICE), (1 - alphas).sqrt().float().to(DEVICE)


def timesteps(count: int) -> Tensor:
    """Draw random timesteps, evenly spread, those of `SHAPING` twice as dense: int64[count]."""
    low, high = SHAPING
    length = 1000 + high - low
    place = (torch.arange(count) + torch.rand(count)) * length / count
    inside = low + (place - low) / 2
    after = place - (high - low)
    t = torch.where(place < low, place, torch.where(inside < high, inside, after))
    return t.long().clamp(0, 999).to(DEVICE)


def noised(x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise to latents at random timesteps: (x, t, v)."""
    signal, noise_level = signal_and_noise()
    t = timesteps(len(x0))
    a, s = signal[t, None, None, None], noise_level[t, None, None, None]
    noise = torch.randn_like(x0)
    return a * x0 + s * noise, t, a * noise - s * x0


@torch.inference_mode()
def sample_latents(
    model: nn.Module, ids: Tensor, empty: Tensor, guidance: float = 3.0, steps: int = 30
) -> Tensor:
    """Sample by DDIM from seed 0, to look at a model while it trains: float[prompts 4 h w]."""
    signal, noise_level = signal_and_noise()
    times = torch.linspace(999, 0, steps + 1).round().long()
    side = SIZE // 8
    x = torch.randn(
        len(ids),
        CONFIG["autoencoder"]["latent_channels"],
        side,
        side,
        generator=torch.manual_seed(0),
    )
    x, both = x.to(DEVICE), torch.cat([ids, empty.expand_as(ids)])
    for now, after in pairwise(times):
        v, v_empty = (
            model(torch.cat([x, x]), now.expand(len(both)).to(DEVICE), both).float().chunk(2)
        )
        v = v_empty + guidance * (v - v_empty)
        x0, noise = signal[now] * x - noise_level[now] * v, noise_level[now] * x + signal[now] * v
        x = signal[after] * x0 + noise_level[after] * noise
    return x0
