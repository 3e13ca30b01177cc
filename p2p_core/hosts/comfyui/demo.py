"""The demo models in ComfyUI: their pictures' size, and sampling them in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.sample
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.utils import get_executing_context

from ...attention_maps import WordMaps, indicator
from ...controller import Rows
from ...demo.architecture import CONFIG, WEIGHTS
from .attention import attach
from .conditioning import PAYLOAD_KEY, Conditioning, Payload
from .demo_models import load_demo
from .prompts import read

log = logging.getLogger("p2p.demo")


def empty_latent(images: int = 1) -> torch.Tensor:
    """Latents of the size that the model was trained on: zeros[images channels height width]."""
    side = CONFIG["image_size"] // 8
    return torch.zeros(images, CONFIG["autoencoder"]["latent_channels"], side, side)


def wary_of_size(model: Any) -> Any:
    """Make the demo model say of other sizes than its own what will come of them."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "p2p_demo", _look_at_size)
    return model


def _look_at_size(executor: Any, noise: torch.Tensor, *rest: Any, **named: Any) -> Any:
    """Wraps sampling, by any node."""
    height, width = (8 * side for side in noise.shape[-2:])
    if max(height, width) > 2 * CONFIG["image_size"]:
        known = f"{CONFIG['image_size']}×{CONFIG['image_size']}"
        text = (
            f"The demo model knows pictures of {known}; at {width}×{height} it scatters shapes "
            "and takes long. Connect P2P Demo Checkpoint's own latent."
        )
        log.warning(text)
        context = get_executing_context()
        if context is not None:  # in a server
            from server import PromptServer

            PromptServer.instance.send_progress_text(text, context.node_id)
    return executor(noise, *rest, **named)


class DemoPipeline:
    """The demo model sampled in this process, with the stock KSampler's own function."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        self.model, self.clip, self.vae = load_demo(path)

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Encode texts as one conditioning with a row per text."""
        rows = [
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0][0] for text in texts
        ]
        return [[torch.cat(rows), {}]]

    def sample(
        self,
        texts: Sequence[str],
        seed: int,
        steps: int,
        cfg: float,
        words: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """Sample one image per text, all from one seed's noise batch.

        Returns (uint8[texts h w 3], word maps[texts h w] or None).
        `words` names the word of each text whose attention map is returned, at the latent's own
        resolution.
        """
        latent = empty_latent(len(texts))
        model, positive, maps = self.model, self.encode(texts), None
        if words is not None:
            prompts = [read(self.clip, text) for text in texts]
            columns = [
                indicator(prompt, [word]) for prompt, word in zip(prompts, words, strict=True)
            ]
            maps = WordMaps(torch.stack(columns)[:, None])
            model = attach(model)
            payload = Payload(None, Rows(len(texts), 0), (maps,))
            positive = [[cond, {**extra, PAYLOAD_KEY: payload}] for cond, extra in positive]
        samples = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, seed),
            steps,
            cfg,
            "euler",
            "normal",
            positive,
            self.encode([""]),
            latent,
            disable_pbar=True,
            seed=seed,
        )
        return self.decode(samples), None if maps is None else maps.mean()[:, 0]

    def decode(self, samples: torch.Tensor) -> np.ndarray:
        """Decode latents to images: uint8[images h w 3]."""
        return (self.vae.decode(samples).clamp(0, 1) * 255).round().byte().cpu().numpy()

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encode and decode images by the autoencoder: uint8[images h w 3] both ways."""
        pixels = torch.from_numpy(images.astype(np.float32) / 255)
        return self.decode(self.vae.encode(pixels))
