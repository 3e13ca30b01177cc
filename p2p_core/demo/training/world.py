"""What the generators are trained on: scenes as latents, worded, with where each object is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..architecture import CONFIG
from ..networks import LATENT_STD, TOKENS, Captions
from ..scenes import SIZE, Scene, decoys, has_held_out, item_mask, render, sample_scene, worded
from .loop import DEVICE

UNWORDED = 0.1
"""How often a caption is empty, for classifier-free guidance."""
DECOYS = 0.75
"""How often a word's neighbours are encoded in a caption where that word is another.

So that the word itself, not its neighbours, says what it means: otherwise a causal text encoder has
told the noun everything by the time the picture looks, and turning "striped" down does nothing.
"""

Words = Sequence[tuple[str, int | None]]
"""A caption as `scenes.worded` gives it."""


@dataclass(frozen=True)
class Batch:
    """Pictures of scenes and captions of them.

    Latents float[batch 4 h w], normalised; regions float[batch objects h w] in 0–1; captions and
    their decoys as ids int64[3 batch tokens], of which `which`, int64[batch tokens], is true in
    each token; the object that each token describes, `described` int64[batch tokens], −1 for none.
    """

    latents: Tensor
    regions: Tensor
    ids: Tensor
    which: Tensor
    described: Tensor


class World:
    """Scenes, encoded once and kept under `out`; what is held out of training never leaves it."""

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        captions: Captions,
        out: Path,
        count: int,
        seed: int,
        normalised: bool = False,
    ) -> None:
        """Make the world; `normalised` latents are so already, as a checkpoint's, and stay so."""
        self.autoencoder, self.captions, self.seed = autoencoder, captions, seed
        rng = random.Random(f"diffusion {seed}")
        self._scenes = [sample_scene(rng) for _ in range(count)]
        raw = _encode(self._scenes, autoencoder, out)
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
        if normalised:
            mean, std = 0 * mean, torch.full_like(std, LATENT_STD / CONFIG["latent_scale"])
        self.statistics = torch.stack([mean, std])
        self._latents = _normalise(raw, self.statistics)
        self._regions = _object_regions(self._scenes, out)
        self._seen = [i for i, scene in enumerate(self._scenes) if not has_held_out(scene)]

    def draw(self, step: int, count: int) -> Batch:
        """Draw the batch of one step: the same whenever it is asked for."""
        draw = random.Random(self.seed * 1_000_000 + step)
        picks = [draw.choice(self._seen) for _ in range(count)]
        texts = [worded(self._scenes[i], draw) if draw.random() > UNWORDED else [] for i in picks]
        ids, which = _isolated(self.captions, texts, draw)
        return Batch(
            self._latents[picks].to(DEVICE),
            self._regions[picks].to(DEVICE).float(),
            ids,
            which,
            _described(self.captions, texts),
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pictures in [−1, 1]: float[pictures 3 SIZE SIZE]."""
        return self.autoencoder.decode(_restore(latents, self.statistics)).sample.float()


def render_batch(scenes: Sequence[Scene]) -> Tensor:
    """Render the scenes' pictures: uint8[scenes 3 SIZE SIZE]."""
    return torch.from_numpy(
        rearrange(np.stack([render(s) for s in scenes]), "n h w c -> n c h w").copy()
    )


def to_model(images: Tensor) -> Tensor:
    return images.to(DEVICE).float() / 127.5 - 1


def _encode(scenes: Sequence[Scene], model: AutoencoderKL, out: Path) -> Tensor:
    """The scenes' latents as the autoencoder makes them: float[scenes 4 h w]."""
    cache = out / "latents.safetensors"
    if not cache.exists():
        latents: list[Tensor] = []
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
            for i in tqdm(range(0, len(scenes), 50), desc="latents", mininterval=5):
                batch = to_model(render_batch(scenes[i : i + 50])).contiguous(
                    memory_format=torch.channels_last
                )
                latents.append(model.encode(batch).latent_dist.mean.float().cpu())
        save_file({"latents": torch.cat(latents).contiguous()}, cache)
    return load_file(cache)["latents"]


def _object_regions(scenes: Sequence[Scene], out: Path) -> Tensor:
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
