"""A transformer of diffusers that matches flows: Flux, SD3 and their like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import ceil, isqrt, prod
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...background import SourceValues
from ...blocks import clean
from ...calls import CallEdits, Look
from ...inversion.task import FLOW, Embedding, Space
from ...tokens import Prompt
from .blocks import Blocks, CrossBlocks, JointBlocks, Prepared, Shape, attached
from .kinds import KINDS, Kind, channels_of, known
from .pipeline import Model
from .texts import read


@dataclass(frozen=True)
class FlowModel(Model):
    """A diffusers pipeline around a transformer of one of `kinds.KINDS`.

    Latents are the autoencoder's own, as in `Model`. Raises `ValueError` for another pipeline.
    """

    def __post_init__(self) -> None:
        network: Any = getattr(self.pipeline, "transformer", None)
        kind = type(self.pipeline).__name__
        if type(network).__name__ not in KINDS:
            raise ValueError(
                f"Expected a pipeline of a family that is edited in diffusers ({known()}), got "
                f"{kind}. Load such a model."
            )
        taken, own = network.config.in_channels, self.channels
        if taken % own or isqrt(taken // own) ** 2 != taken // own:  # squares are packed latents
            raise ValueError(
                f"Expected a text-to-image or text-to-video model, got {kind}, whose network takes "
                f"more than latents ({taken} channels of {own}). Load a base model of "
                f"{self.kind.name}."
            )

    @cached_property
    def kind(self) -> Kind:
        """The row of the table that it is."""
        return KINDS[type(self.network).__name__]

    @property
    def network(self) -> Any:
        return self.pipeline.transformer

    @property
    def networks(self) -> tuple[Any, ...]:
        """All transformers that take turns."""
        second = getattr(self.pipeline, "transformer_2", None)
        return (self.network,) if second is None else (self.network, second)

    @property
    def space(self) -> Space:
        return FLOW

    @property
    def sides(self) -> tuple[float, ...]:
        return (1 / self.kind.patch(self.pipeline),)

    @property
    def cfg(self) -> float:
        return self.kind.cfg

    @property
    def distilled(self) -> bool:
        return bool(self.network.config.get("guidance_embeds"))

    @property
    def side(self) -> int:
        cells = getattr(self.pipeline, "default_sample_size", None) or 128
        return cells * self.factor

    @property
    def least(self) -> int:
        return self.factor * self.kind.patch(self.pipeline)

    @property
    def length(self) -> int:
        """The number of an empty text's tokens as the network gets them."""
        return self.read("").length

    def read(self, text: str) -> Prompt:
        """Read a text's words and their tokens; raises `ValueError` for one that is too long."""
        return read(self.kind.encoders(self.pipeline), text)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Embedding:
        """Encode a row per text; `rest` as `kinds` has it."""
        return self.kind.encode(self.pipeline, list(texts))

    def steps(self, scheduler: Any, count: int, size: torch.Size) -> dict[str, Any]:
        """Say what the pipeline sets a scheduler's timesteps with, for latents of a size.

        Raises `ValueError` for a single step where a schedule is stretched to a last level.
        """
        config = scheduler.config
        if count == 1 and config.get("shift_terminal"):
            raise ValueError(
                f"Expected 2 or more steps, since {self.kind.name}'s schedule is stretched to end "
                f"at {config.shift_terminal:g}, got 1. Take more steps."
            )
        told: dict[str, Any] = {"num_inference_steps": count, "device": "cpu"}
        if self.kind.even and not config.get("use_flow_sigmas"):
            told["sigmas"] = np.linspace(1.0, 1 / count, count)
        if config.get("use_dynamic_shifting"):
            least, most = (
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
            )
            low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
            patch = self.kind.patch(self.pipeline)
            tokens = prod(side // patch for side in size[-2:])
            told["mu"] = low + (high - low) * (tokens - least) / (most - least)
        return told

    def check_latent(self, latent: Tensor) -> None:
        """Raises `ValueError` for latents that are no whole number of the network's patches."""
        patch, axes = self.kind.patch(self.pipeline), 5 if self.kind.video else 4
        if latent.ndim != axes or any(side % patch for side in latent.shape[-2:]):
            raise ValueError(
                f"Expected latents of {axes} axes whose height and width are multiples of {patch} "
                f"for {self.kind.name}, got {tuple(latent.shape)}. Choose another size."
            )

    def blank(self, width: int, height: int) -> Tensor:
        flat = (height // self.factor, width // self.factor)
        frames = (1,) if self.kind.video else ()
        return torch.zeros(1, self.channels, *frames, *flat)

    def encoded(self, pixels: Tensor) -> Tensor:
        """Encode pixels; to a video's autoencoder each image is a video of one frame."""
        if not self._of_frames:
            return super().encoded(pixels)
        latent = super().encoded(pixels[:, :, None])
        return latent if self.kind.video else latent[:, :, 0]

    def decoded(self, latent: Tensor) -> Tensor:
        """Decode latents, of a video to its frames one after another."""
        if not self._of_frames:
            return super().decoded(latent)
        frames = super().decoded(latent if self.kind.video else latent[:, :, None])
        return rearrange(frames, "videos c frames h w -> (videos frames) c h w")

    @property
    def _of_frames(self) -> bool:
        """Whether the autoencoder is one of videos."""
        return hasattr(self.vae.config, "z_dim")

    @property
    def channels(self) -> int:
        return channels_of(self.pipeline)

    def guided(self, uncond: Tensor, prediction: Tensor, cfg: float) -> Tensor:
        return self.kind.guided(self.pipeline, uncond, prediction, cfg)

    def predict(self, x: Tensor, sigma: float, text: Embedding, told: float = 0.0) -> Tensor:
        """Predict the velocity, noise − image, of x; `told` is a distilled model's guidance."""
        dtype = self.dtype
        rest = text.rest
        if isinstance(rest, Tensor):
            rest = rest.to(x.device, rest.dtype if rest.dtype == torch.bool else dtype)
        text = Embedding(text.tokens.to(x.device, dtype), rest)
        ratio = getattr(self.pipeline.config, "boundary_ratio", None) or 0.0
        network = self.networks[0 if sigma >= ratio else -1]
        return self.kind.predict(self.pipeline, network, x.to(dtype), sigma, text, told).float()

    def image(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """Compute the image that a prediction of x stands for, in the sampler's space."""
        return x - sigma * prediction

    def moved(self, prediction: Tensor, sigma: float, residual: Tensor) -> Tensor:
        """Give the prediction as it is: it is dx/dσ."""
        return prediction

    @contextmanager
    def attached(self) -> Iterator[FlowCall]:
        """Have the transformer's attention obey the call that is given out, while it lasts."""
        kinds: list[str] = []
        modules: list[list[list[Any]]] = [[] for _ in self.networks]
        for listed, name, attributes in self.kind.blocks:
            kinds += [name] * len(getattr(self.network, listed))
            for network, several in zip(self.networks, modules, strict=True):
                several += [
                    [getattr(block, one) for one in attributes]
                    for block in getattr(network, listed)
                ]
        made = CrossBlocks if len(self.kind.blocks[0][2]) > 1 else JointBlocks
        watched = clean(self.kind.name, len(kinds))
        blocks = made(self.kind.name, tuple(kinds), watched)
        with attached(blocks, [one for several in modules for one in several]):
            yield FlowCall(self, blocks)


@dataclass(frozen=True)
class FlowCall:
    """What a flow model's attention does in the call under way."""

    model: FlowModel
    blocks: Blocks

    def prepare(self, edits: CallEdits, x: Tensor) -> Prepared | None:
        """Prepare the edits of a call on latents x."""
        return self.blocks.prepare(edits, x, self.model.kind.pooled)

    def predict(
        self,
        prepared: Prepared | None,
        looks: Sequence[Look],
        values: SourceValues | None,
        x: Tensor,
        sigma: float,
        text: Embedding,
        tokens: int,
        told: float,
    ) -> Tensor:
        """Predict under prepared edits, of texts of which prompts have `tokens` tokens."""
        kind, texts = self.model.kind, text.tokens.shape[1]
        patch = kind.patch(self.model.pipeline)
        height, width = (side // patch for side in x.shape[-2:])
        frames = x.shape[2] if x.ndim == 5 else 1
        pixels = frames * height * width
        start = texts if kind.text_first else 0
        first = 0 if kind.text_first else ceil(pixels / kind.multiple) * kind.multiple
        shape = Shape(
            rows=len(x),
            sizes=(frames, height, width),
            text=slice(first, first + tokens),
            image=slice(start, start + pixels),
            texts=texts,
        )
        self.blocks.obey(prepared, looks, values, shape)
        prediction = self.model.predict(x, sigma, self.blocks.vectors(text), told)
        self.blocks.check()
        return prediction
