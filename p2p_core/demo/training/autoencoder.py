"""The first stage: the autoencoder."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from ..networks import log
from ..scenes import SIZE, Scene, sample_scene
from .loop import DEVICE, Stage, save_sheet
from .world import render_batch, to_model


def psnr(a: Tensor, b: Tensor) -> float:
    """Measure how alike images in [−1, 1] are: the mean PSNR over images, in dB."""
    error = (a.clamp(-1, 1) - b).div(2).pow(2).flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def train_autoencoder(
    model: AutoencoderKL, out: Path, steps: int, peak: float, seed: int
) -> AutoencoderKL:
    """Train the autoencoder to reconstruct pictures.

    On 64-pixel crops, half of them on an object; the last eighth of the steps on whole pictures.
    """
    model = model.to(DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    stage = Stage(out / "autoencoder.pt", model, optimiser)
    if stage.step >= steps:
        return model.eval()
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in tqdm(range(6000), desc="scenes")]
    images = torch.cat(
        [render_batch(scenes[i : i + 500]) for i in tqdm(range(0, 6000, 500), desc="rendering")]
    )
    held_out = to_model(
        render_batch([sample_scene(random.Random(f"held out {i}")) for i in range(32)])
    )
    for step in stage.run(steps, peak=peak, every=100):
        draw = random.Random(seed * 1_000_000 + step)
        whole = step >= steps * 7 // 8
        batch = to_model(
            _crops(images, scenes, draw, count=8 if whole else 32, size=SIZE if whole else 64)
        )
        with torch.autocast(DEVICE.type, torch.bfloat16):
            posterior = model.encode(
                batch.contiguous(memory_format=torch.channels_last)
            ).latent_dist
            decoded = model.decode(posterior.sample()).sample
        error = decoded.float() - batch
        kl = (
            0.5
            * (
                posterior.mean.float().pow(2) + posterior.var.float() - 1 - posterior.logvar.float()
            ).mean()
        )
        loss = error.pow(2).mean() + 0.1 * error.abs().mean() + 2e-4 * kl
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
                again = model.decode(model.encode(held_out).latent_dist.mean).sample.float()
            log.info(
                "autoencoder %d: loss %.5f, kl %.2f, held-out PSNR %.2f dB",
                step + 1,
                loss,
                kl,
                psnr(again, held_out),
            )
            save_sheet(torch.cat([held_out[:8], again[:8]]), out / "autoencoder.png")
    return model.eval()


def _crops(
    images: Tensor, scenes: list[Scene], draw: random.Random, count: int, size: int
) -> Tensor:
    crops: list[Tensor] = []
    for _ in range(count):
        i = draw.randrange(len(scenes))
        top, left = draw.randint(0, SIZE - size), draw.randint(0, SIZE - size)
        if draw.random() < 0.6 and size < SIZE:
            item = draw.choice(scenes[i].items)
            top = min(max(0, round(item.y - size / 2 + draw.uniform(-16, 16))), SIZE - size)
            left = min(max(0, round(item.x - size / 2 + draw.uniform(-16, 16))), SIZE - size)
        crops.append(images[i, :, top : top + size, left : left + size])
    return torch.stack(crops)
