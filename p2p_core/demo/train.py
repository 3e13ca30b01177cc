"""Train the demo model.

Autoencoder first, then UNet and text encoder together, then one SD1.x-style file.

    python -m p2p_core.demo.train            # all stages, resuming where an earlier run stopped
    python -m p2p_core.demo.train --start-from p2p_core/demo/demo_model.safetensors --out output/on

Runs on a GPU if there is one. Every stage keeps its state under `--out`; the same seed gives the
same weights on the same machine. Needs `pip install .[train]` (diffusers, transformers,
open-clip-torch for CLIP's BPE).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange, repeat
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .architecture import CONFIG
from .networks import (
    LATENT_STD,
    TOKENS,
    Captions,
    Generator,
    build_autoencoder,
    export,
    load_checkpoint,
    log,
)
from .scenes import SIZE, Scene, decoys, has_held_out, item_mask, render, sample_scene, worded

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FOCUS = 5.0
"""The loss weighs objects up to 1 + FOCUS times as much as the ground, which is learnt first."""
GROUNDING = 0.05
"""Weight of the loss that lays a word's attention map on its object (after Wang et al. 2024,
TokenCompose: attention supervised with the masks of what the words name)."""
DECOYS = 0.75
"""How often a word's neighbours are encoded in a caption where that word is another.

So that the word itself, not its neighbours, says what it means: otherwise a causal text encoder has
told the noun everything by the time the picture looks, and turning "striped" down does nothing.
"""
SHAPING = (150, 650)
"""Timesteps at which an object's place shows through the noise and its shape does not.

They are drawn twice as often as the others.
"""
SHEET_PROMPTS = (
    "a red circle on the grass",
    "a big striped blue square on sand",
    "a purple star in the snow",
    "a yellow heart at night",
    "a black ring in the sky",
    "a dotted green triangle on stone",
    "a small orange cross in the sea",
    "a pink moon on clay",
    "a red star left of a blue ring on sand",
    "a green heart above a yellow square on stone",
    "a circle on the left in the snow",
    "an orange moon and a purple cross in the sky",
)


def timesteps(count: int) -> Tensor:
    """Random and evenly spread, those of `SHAPING` twice as dense: int64[count]."""
    low, high = SHAPING
    length = 1000 + high - low
    place = (torch.arange(count) + torch.rand(count)) * length / count
    inside = low + (place - low) / 2
    after = place - (high - low)
    t = torch.where(place < low, place, torch.where(inside < high, inside, after))
    return t.long().clamp(0, 999).to(DEVICE)


def grounding_loss(maps: Sequence[Tensor], tokens: Tensor, regions: Tensor) -> Tensor:
    """How badly words' maps lie on their objects: one minus their Dice overlap, 0 to 1.

    Maps are float[batch pixels tokens], each divided by its maximum; `tokens`, int64[batch tokens],
    tells each token's object or −1; regions are float[batch objects pixels] in 0–1.
    """
    described = tokens >= 0
    index = repeat(tokens.clamp(min=0), "b t -> b t p", p=regions.shape[-1])
    wanted = regions.gather(1, index).mT
    losses: list[Tensor] = []
    for m in maps:
        m = m / m.amax(1, keepdim=True).clamp(min=1e-6)
        overlap = 2 * (m * wanted).sum(1) / (m.square() + wanted.square()).sum(1).clamp(min=1e-6)
        losses.append((1 - overlap)[described].mean())
    return torch.stack(losses).mean()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 200 steps, then a cosine to 2 % of the peak."""
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """SD1's schedule: √ᾱ and √(1 − ᾱ) for 1000 timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return alphas.sqrt().float().to(DEVICE), (1 - alphas).sqrt().float().to(DEVICE)


def render_batch(scenes: list[Scene]) -> Tensor:
    """The scenes' pictures: uint8[scenes 3 SIZE SIZE]."""
    return torch.from_numpy(
        rearrange(np.stack([render(s) for s in scenes]), "n h w c -> n c h w").copy()
    )


def to_model(images: Tensor) -> Tensor:
    return images.to(DEVICE).float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Of images in [−1, 1]: the mean over images, in dB."""
    error = (a.clamp(-1, 1) - b).div(2).pow(2).flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """float[n 3 h w] in [−1, 1] → one picture, `columns` wide."""
    count = len(images) // columns * columns or len(images)
    pixels = ((images[:count].float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    grid = rearrange(pixels, "(r c) ch h w -> (r h) (c w) ch", c=min(columns, count))
    Image.fromarray(grid).save(path)


class Stage:
    """A training loop's state on disk: one file, written whole, read when the run starts again."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        extra: nn.Module | None = None,
    ):
        self.path, self.model, self.optimiser, self.extra = path, model, optimiser, extra
        self.step = 0
        if path.exists():
            state = torch.load(path, map_location=DEVICE, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            if extra is not None:
                extra.load_state_dict(state["extra"])
            self.step = int(state["step"])
            log.info("%s: resuming at step %d", path.name, self.step)

    def save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "extra": self.extra.state_dict() if self.extra is not None else None,
            "step": self.step,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def run(self, steps: int, peak: float, every: int) -> Iterator[int]:
        """Yield step numbers; set the learning rate; save every `every` steps and at the end."""
        bar = tqdm(total=steps, initial=self.step, desc=self.path.stem, mininterval=5)
        while self.step < steps:
            torch.manual_seed(1_000_003 * len(self.path.stem) + self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.step, steps, peak)
            yield self.step
            self.step += 1
            bar.update()
            if self.step % every == 0 or self.step == steps:
                self.save()
        bar.close()


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


def encode_scenes(
    model: AutoencoderKL, out: Path, count: int, seed: int
) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes and their latents.

    Returns (scenes, latents[scenes 4 h w] normalised, statistics[2 4] = mean and std).
    """
    rng = random.Random(f"diffusion {seed}")
    scenes = [sample_scene(rng) for _ in range(count)]
    cache = out / "latents.safetensors"
    if not cache.exists():
        latents: list[Tensor] = []
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
            for i in tqdm(range(0, count, 50), desc="latents", mininterval=5):
                batch = to_model(render_batch(scenes[i : i + 50])).contiguous(
                    memory_format=torch.channels_last
                )
                latents.append(model.encode(batch).latent_dist.mean.float().cpu())
        save_file({"latents": torch.cat(latents).contiguous()}, cache)
    raw = load_file(cache)["latents"]
    statistics = torch.stack([raw.mean((0, 2, 3)), raw.std((0, 2, 3))])
    return scenes, _normalise(raw, statistics), statistics


def object_regions(scenes: Sequence[Scene], out: Path) -> Tensor:
    """Where each object is, at the latent's resolution: float16[scenes 2 h w] in 0–1."""
    cache = out / "regions.safetensors"
    if not cache.exists():
        side = SIZE // 8
        regions = torch.zeros(len(scenes), 2, side, side, dtype=torch.float16)
        for n, scene in enumerate(tqdm(scenes, desc="regions", mininterval=5)):
            for i, item in enumerate(scene.items):
                mask = torch.from_numpy(np.asarray(item_mask(item), dtype=np.float32) / 255)
                regions[n, i] = F.avg_pool2d(mask[None], 8)[0]
        save_file({"regions": regions}, cache)
    return load_file(cache)["regions"]


def _normalise(latents: Tensor, statistics: Tensor) -> Tensor:
    mean, std = rearrange(statistics.to(latents), "s c -> s c 1 1")
    return (latents - mean) / std * LATENT_STD


def _restore(latents: Tensor, statistics: Tensor) -> Tensor:
    mean, std = rearrange(statistics.to(latents), "s c -> s c 1 1")
    return latents / LATENT_STD * std + mean


def train_generator(
    out: Path,
    captions: Captions,
    autoencoder: AutoencoderKL,
    model: Generator,
    options: argparse.Namespace,
) -> None:
    """v-prediction on SD1's schedule; one caption in ten is empty, for classifier-free guidance."""
    steps, seed, batch = options.generator_steps, options.seed, options.batch
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 1e-2}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    stage = Stage(out / "generator.pt", model, optimiser, extra=average)
    pool, latents, statistics = encode_scenes(autoencoder, out, options.scenes, seed)
    objects = object_regions(pool, out)
    seen = [i for i, scene in enumerate(pool) if not has_held_out(scene)]
    signal, noise_level = signal_and_noise()
    started, losses = time.monotonic(), []
    for step in stage.run(steps, peak=options.peak, every=500):
        draw = random.Random(seed * 1_000_000 + step)
        picks = [draw.choice(seen) for _ in range(batch)]
        texts = [worded(pool[i], draw) if draw.random() > 0.1 else [] for i in picks]
        ids, which = _isolated(captions, texts, draw)
        x0, regions = latents[picks].to(DEVICE), objects[picks].to(DEVICE).float()
        t = timesteps(batch)
        a, s = signal[t, None, None, None], noise_level[t, None, None, None]
        noise = torch.randn_like(x0)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            predicted = model(a * x0 + s * noise, t, ids, which)
        error = (predicted.float() - (a * noise - s * x0)).square()
        weight = 1 + FOCUS * F.max_pool2d(regions.sum(1, keepdim=True), 3, stride=1, padding=1)
        astray = grounding_loss(
            model.word_maps(),
            _described(captions, texts),
            rearrange(regions, "b o h w -> b o (h w)"),
        )
        loss = (error * weight).mean() / weight.mean() + GROUNDING * astray
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        losses.append((loss.item(), astray.item()))
        if (step + 1) % 250 == 0:
            seconds = (time.monotonic() - started) / len(losses)
            log.info(
                "generator %d: loss %.5f, of it grounding %.5f, %.3f s a step",
                step + 1,
                *(np.mean(losses[-250:], axis=0) * (1, GROUNDING)),
                seconds,
            )
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            sample = sample_latents(
                average.module, captions(list(SHEET_PROMPTS)), captions([""]), guidance=3.0
            )
            save_sheet(_decode(autoencoder, sample, statistics), out / "generator.png", columns=6)
    export(out, autoencoder, average.module, captions, statistics)


Words = Sequence[tuple[str, int | None]]
"""A caption as `scenes.worded` gives it."""


def _isolated(
    captions: Captions, texts: Sequence[Words], draw: random.Random
) -> tuple[Tensor, Tensor]:
    """Ids of each text and its decoys, int64[3 texts tokens], and in which each token is true."""
    written: list[tuple[list[str], list[str], list[str]]] = []
    which = torch.full((len(texts), TOKENS), 2)
    for row, text in zip(which, texts, strict=True):
        words = [word for word, _ in text]
        if draw.random() < DECOYS:
            *several, marks = decoys(list(text), draw)
            found = captions.places(words, marks)
            row[found >= 0] = found[found >= 0]
            written.append((several[0], several[1], several[2]))
        else:
            written.append((words, words, words))
    ids = [captions([" ".join(words) for words in column]) for column in zip(*written, strict=True)]
    return torch.stack(ids).to(DEVICE), which.to(DEVICE)


def _described(captions: Captions, texts: Sequence[Words]) -> Tensor:
    """Which token describes which object: int64[captions tokens], −1 for none."""
    rows = [
        captions.places([w for w, _ in text], [-1 if n is None else n for _, n in text])
        for text in texts
    ]
    return torch.stack(rows).to(DEVICE)


@torch.inference_mode()
def sample_latents(
    model: nn.Module, ids: Tensor, empty: Tensor, guidance: float, steps: int = 30
) -> Tensor:
    """Plain DDIM from seed 0, to look at a model while it trains: float[prompts 4 h w]."""
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
    x, both = x.to(DEVICE), torch.cat([ids, empty.expand_as(ids)]).to(DEVICE)
    for now, after in pairwise(times):
        v, v_empty = (
            model(torch.cat([x, x]), now.expand(len(both)).to(DEVICE), both).float().chunk(2)
        )
        v = v_empty + guidance * (v - v_empty)
        x0, noise = signal[now] * x - noise_level[now] * v, noise_level[now] * x + signal[now] * v
        x = signal[after] * x0 + noise_level[after] * noise
    return x0


@torch.inference_mode()
def _decode(autoencoder: AutoencoderKL, latents: Tensor, statistics: Tensor) -> Tensor:
    return autoencoder.decode(_restore(latents, statistics)).sample.float()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("output/train"), help="where checkpoints and sheets go"
    )
    parser.add_argument("--stage", choices=("all", "autoencoder"), default="all")
    parser.add_argument("--autoencoder-steps", type=int, default=2500)
    parser.add_argument("--autoencoder-peak", type=float, default=1.5e-3, help="learning rate")
    parser.add_argument("--generator-steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=1e-3, help="the generator's learning rate")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="train this checkpoint on instead of starting from nothing",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options.out.mkdir(parents=True, exist_ok=True)
    captions = Captions()
    torch.manual_seed(options.seed)
    if options.start_from:
        autoencoder, generator = load_checkpoint(options.start_from, captions)
    else:
        autoencoder, generator = build_autoencoder(), Generator(len(captions.used))
    autoencoder = train_autoencoder(
        autoencoder,
        options.out,
        options.autoencoder_steps,
        options.autoencoder_peak,
        options.seed,
    )
    if options.stage == "all":
        train_generator(options.out, captions, autoencoder, generator.to(DEVICE), options)


if __name__ == "__main__":
    main()
