"""A diffusion model in diffusers, and what it makes of prompts, images and latents."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ...background import SourceValues
from ...calls import CallEdits, Look
from ...edits import AUTOMATIC
from ...inversion.task import DIFFUSION, Embedding, Space, c_in
from ...notation import check_text
from ...tokens import Prompt
from ...unet import joined
from .attention import Call, attached, cross_attention_sides
from .kinds import known
from .loading import load_pipeline
from .texts import Encoder, read

SCHEDULERS: Mapping[str, Callable[[int, int], Tensor]] = {
    "normal": lambda trained, steps: torch.linspace(trained - 1, 0, steps, dtype=torch.float64),
    "ddim_uniform": lambda trained, steps: (
        torch.arange(1, trained, max(trained // steps, 1)).flip(0).double()
    ),
}
"""Timesteps, falling, of those that a model was trained on, by ComfyUI's names.

“normal” spaces them evenly from the last to the first, “ddim_uniform” by a whole number: diffusers'
“leading” where that divides them, else there are some more.
"""


@dataclass(frozen=True)
class Model:
    """A diffusers pipeline of the Stable Diffusion family (SD1.x, SD2.x, SDXL) or latent diffusion.

    Its UNet, autoencoder, text encoders and tokenizers are used, and its scheduler's configuration.
    Latent diffusion with its BERT encoder is the paper's second backbone.
    Latents are the autoencoder's own here, as ComfyUI's nodes pass them; in the sampler's space
    they are multiplied by its scaling factor.
    """

    pipeline: Any

    def __post_init__(self) -> None:
        unet = getattr(self.pipeline, "unet", None)
        kind = type(self.pipeline).__name__
        if unet is None:
            raise ValueError(
                f"Expected a pipeline of a family that is edited in diffusers ({known()}), got "
                f"{kind}. Load such a model, one of a transformer with opening.open_model."
            )
        cross_attention_sides(unet)
        parts = ["tokenizer", "text_encoder", "vae"]
        if hasattr(self.pipeline, "bert"):
            parts = ["tokenizer", "bert", "vqvae"]
        if getattr(unet.config, "addition_embed_type", None) == "text_time":
            parts += ["tokenizer_2", "text_encoder_2"]
        missing = [part for part in parts if getattr(self.pipeline, part, None) is None]
        if missing or unet.config.in_channels != self.vae.config.latent_channels:
            lacks = f"without {', '.join(missing)}" if missing else "for inpainting or the like"
            raise ValueError(
                f"Expected a text-to-image model with all its parts, got {kind} {lacks}. Load a "
                "base model of SD1.x, SD2.x or SDXL."
            )
        if self.vae.dtype == torch.float16 and getattr(self.vae.config, "force_upcast", False):
            self.vae.to(torch.float32)  # it overflows in half precision
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"Expected a model that predicts noise or v, got {self.prediction} in {kind}. "
                "Load another model."
            )

    @classmethod
    def demo(cls) -> Model:
        """Load the model that ships with this project."""
        from .demo import load_demo

        return cls(load_demo())

    @classmethod
    def load(cls, path: Path, dtype: torch.dtype = torch.float32) -> Model:
        """Load a model in diffusers' folder layout, or a checkpoint file.

        Nothing is downloaded for a folder; for a file diffusers looks for its configuration.
        Raises `ValueError` for a path where there is none, and for a model that lacks weights.
        """
        if not path.exists():
            raise ValueError(
                f"Expected a model at {path}, which does not exist. Give a checkpoint file, a "
                "folder in diffusers' layout, or “demo”."
            )
        return cls(load_pipeline(path, dtype))

    @property
    def network(self) -> Any:
        """What predicts."""
        return self.pipeline.unet

    @property
    def sides(self) -> tuple[float, ...]:
        """Of layers that look at text, as fractions of the latent's side, largest first."""
        return cross_attention_sides(self.network)

    @property
    def cfg(self) -> float:
        """Guidance where none is asked for."""
        return 7.5

    @property
    def distilled(self) -> bool:
        """Whether it is told of guidance, see `Settings.guidance`."""
        return False

    @property
    def factor(self) -> int:
        """Pixels of an image's side that are one of its latent's."""
        config = self.vae.config
        halved = getattr(config, "block_out_channels", None)
        if halved is not None:
            return 2 ** (len(halved) - 1)
        several = getattr(self.pipeline, "vae_scale_factor_spatial", None)
        return several or self.pipeline.vae_scale_factor

    @property
    def least(self) -> int:
        """Of what an image's sides in pixels are multiples."""
        return self.factor

    @property
    def side(self) -> int:
        """Of the images that the model was trained on, in pixels."""
        return self.network.config.sample_size * self.factor

    def blank(self, width: int, height: int) -> Tensor:
        """Make the latent of an image yet to be made, its size in pixels."""
        channels = self.network.config.in_channels
        return torch.zeros(1, channels, height // self.factor, width // self.factor)

    def check_latent(self, latent: Tensor) -> None:
        """Raises `ValueError` for latents that the network cannot take; a UNet takes all."""

    def inward(self, latent: Tensor) -> Tensor:
        """Bring latents from the autoencoder's space to the sampler's."""
        shift, scale = self._normal(latent)
        return (latent - shift) * scale

    def outward(self, x: Tensor) -> Tensor:
        """Bring latents from the sampler's space to the autoencoder's."""
        shift, scale = self._normal(x)
        return x / scale + shift

    def _normal(self, like: Tensor) -> tuple[Any, Any]:
        """What is taken from latents, and what they are multiplied with then."""
        config = self.vae.config
        if getattr(config, "latents_mean", None) is None or not hasattr(config, "z_dim"):
            return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
        shape = (1, -1, *[1] * (like.ndim - 2))
        mean, std = (torch.tensor(x).view(shape) for x in (config.latents_mean, config.latents_std))
        return mean.to(like), 1 / std.to(like)

    @property
    def device(self) -> torch.device:
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def prediction(self) -> str:
        return self.pipeline.scheduler.config.prediction_type

    @property
    def vae(self) -> Any:
        """The autoencoder, which latent diffusion calls by another name."""
        return getattr(self.pipeline, "vae", None) or self.pipeline.vqvae

    @property
    def bert(self) -> Any:
        """The text encoder of latent diffusion; None for another model."""
        return getattr(self.pipeline, "bert", None)

    @property
    def scale(self) -> float:
        """What latents are multiplied by to come from the autoencoder's space to the sampler's."""
        return self.vae.config.scaling_factor

    @property
    def length(self) -> int:
        """The number of a text's tokens as the network gets them."""
        if self.bert is not None:
            return self.bert.config.max_position_embeddings
        return self.pipeline.tokenizer.model_max_length

    def read(self, text: str) -> Prompt:
        """Read a text's words and their tokens; raises `ValueError` for one that is too long."""

        def ids(text: str) -> Sequence[int]:
            return self.pipeline.tokenizer(text, verbose=False)["input_ids"]

        return read([Encoder(ids, self.length, lambda count: self.length)], text)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Embedding:
        """Encode a row per text; `rest` is SDXL's pooled vector, float[texts channels], or None."""
        for text in texts:
            check_text(text)
        if self.bert is not None:
            fill = {"padding": "max_length", "max_length": self.length, "return_tensors": "pt"}
            filled = self.pipeline.tokenizer(list(texts), truncation=True, **fill)
            return Embedding(self.bert(filled["input_ids"].to(self.device))[0])
        embeddings = self.pipeline.encode_prompt(
            prompt=list(texts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return Embedding(embeddings[0], embeddings[2] if len(embeddings) > 2 else None)

    @torch.no_grad()
    def to_latent(self, pictures: np.ndarray) -> Tensor:
        """Encode uint8[images height width 3] as latents: float[images channels height width].

        Sides that the autoencoder cannot divide are cropped in their middle.
        """
        height, width = (side // self.least * self.least for side in pictures.shape[1:3])
        top, left = (pictures.shape[1] - height) // 2, (pictures.shape[2] - width) // 2
        pixels = torch.from_numpy(pictures[:, top : top + height, left : left + width].copy())
        pixels = pixels.permute(0, 3, 1, 2).to(self.device, self.vae.dtype) / 127.5 - 1
        return self.encoded(pixels).float()

    def encoded(self, pixels: Tensor) -> Tensor:
        """Encode pixels in −1 to 1, float[images 3 height width], as latents."""
        return self.vae.encode(pixels).latent_dist.mode()

    def decoded(self, latent: Tensor) -> Tensor:
        """Decode latents to pixels in −1 to 1: float[images 3 height width]."""
        return self.vae.decode(latent).sample

    @torch.no_grad()
    def to_pictures(self, latent: Tensor) -> np.ndarray:
        """Decode latents to pictures: uint8[images height width 3]."""
        pixels = self.decoded(latent.to(self.device, self.vae.dtype))
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
        return pixels.round().byte().permute(0, 2, 3, 1).cpu().numpy()

    @cached_property
    def levels(self) -> Tensor:
        """The σ of every timestep that the model was trained on: float64[timesteps], rising."""
        scheduler: Any = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        signal = scheduler.alphas_cumprod.double().clamp(min=2**-24)  # 0 would be no level at all
        return ((1 - signal) / signal).sqrt()

    def sigmas(self, steps: int, denoise: float = 1.0, scheduler: str = "normal") -> list[float]:
        """List the levels of so many steps as one of `SCHEDULERS` has them, then 0.

        With `denoise` below 1 they are the last of a longer schedule.
        """
        if steps < 1 or not 0 < denoise <= 1:
            raise ValueError(
                f"Expected 1 or more steps and a denoise within 0 and 1, got {steps} and "
                f"{denoise:g}."
            )
        trained = len(self.levels)
        whole = SCHEDULERS[scheduler](trained, int(steps / denoise))
        low = whole.floor().long()
        logs, part = self.levels.log(), whole - low
        above = logs[(low + 1).clamp(max=trained - 1)]
        chosen = ((1 - part) * logs[low] + part * above).exp().float()
        return [*(chosen if denoise == 1 else chosen[-steps:]).tolist(), 0.0]

    def timestep(self, sigma: float) -> int:
        """Find the timestep whose level is nearest: the model knows whole ones only."""
        return int((self.levels.log() - log(sigma)).abs().argmin())

    @property
    def networks(self) -> tuple[Any, ...]:
        """All networks that take turns."""
        return (self.network,)

    @property
    def space(self) -> Space:
        """How noise lies over images in the sampler's space."""
        return DIFFUSION

    def predict(self, x: Tensor, sigma: float, text: Embedding, told: float = 0.0) -> Tensor:
        """Predict noise or v of x = image + σ · noise, one row per row of `text`.

        x is on the network's device; what a distilled model is `told` is not for a UNet.
        """
        dtype = self.dtype  # looked up once: diffusers asks every module for it
        extra: dict[str, Any] = {}
        if text.rest is not None:
            height, width = (size * self.factor for size in x.shape[-2:])
            ids = torch.tensor([height, width, 0, 0, height, width], device=x.device)
            pooled = text.rest.to(x.device, dtype)
            extra["added_cond_kwargs"] = {
                "text_embeds": pooled,
                "time_ids": ids.to(dtype).repeat(len(x), 1),
            }
        output = self.pipeline.unet(
            (x * c_in(sigma)).to(dtype),
            self.timestep(sigma),
            text.tokens.to(x.device, dtype),
            **extra,
        )
        return output.sample.float()

    def guided(self, uncond: Tensor, prediction: Tensor, cfg: float) -> Tensor:
        """Guide the prediction for a text away from that for the negative one."""
        return uncond + cfg * (prediction - uncond)

    @contextmanager
    def attached(self) -> Iterator[UNetCall]:
        """Have the UNet's attention obey the call that is given out, while the context lasts."""
        with attached(self.network) as call:
            yield UNetCall(self, call)

    def image(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """Compute the image that a prediction of x stands for, in the sampler's space."""
        if self.prediction == "epsilon":
            return x - sigma * prediction
        return x * c_in(sigma) ** 2 - prediction * sigma * c_in(sigma)

    def moved(self, prediction: Tensor, sigma: float, residual: Tensor) -> Tensor:
        """Turn a prediction of x + residual into x's of the same dx/dσ, for a scheduler's step."""
        if self.prediction == "epsilon":
            return prediction
        return prediction + residual * sigma * c_in(sigma)


@dataclass(frozen=True)
class UNetCall:
    """What a UNet's attention does in the call under way."""

    model: Model
    call: Call

    def prepare(self, edits: CallEdits, x: Tensor) -> Any:
        """Prepare the edits of a call on latents x.

        Raises `ValueError` for settings of joint attention, which a UNet has none of.
        """
        rows = edits.rows()
        modes = {row.mode for row in rows} - {AUTOMATIC}
        if modes:
            raise ValueError(
                "Expected edits of a UNet, whose text has a softmax of its own, got one for joint "
                f"attention ({', '.join(modes)}). Set attention to {AUTOMATIC}."
            )
        return joined(rows, len(x), x.shape[-2:], x.device)

    def predict(
        self,
        prepared: Any,
        looks: Sequence[Look],
        values: SourceValues | None,
        x: Tensor,
        sigma: float,
        text: Embedding,
        tokens: int,
        told: float,
    ) -> Tensor:
        """Predict under prepared edits; what a distilled model is told is not for a UNet."""
        self.call.cross, self.call.own = prepared
        self.call.looks, self.call.values = looks, values
        self.call.latent = (x.shape[-2], x.shape[-1])
        return self.model.predict(x, sigma, text)
