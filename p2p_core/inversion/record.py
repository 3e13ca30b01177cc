"""An inversion as a value: what was found for which image, prompt and model, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from .task import Found

FORMAT = "p2p_inversion"
VERSION = "1"
PROBED = 16
"""How many of a model's weights are looked at, and how many numbers of each."""
CLOSE = 0.02
"""How far numbers that tell things apart may be off, of the largest: half precision rounds."""


@dataclass(frozen=True)
class Inversion:
    """How to sample so that given images come out of a source prompt.

    `guidance` is the scale that it was made for, `psnr` the reconstruction's in dB, one an image.
    """

    method: str
    prompt: str
    guidance: float
    sigmas: Tensor
    """float[levels], falling to 0."""
    found: Found
    latent: Tensor
    """float[images channels height width] as nodes pass it: the images."""
    reconstruction: Tensor
    """Likewise: what sampling makes of them without an edit."""
    psnr: tuple[float, ...]
    source: Tensor
    """`summary` of the source text's embedding."""
    negative: Tensor
    """`summary` of the negative text's embedding."""
    probe: Tensor
    """float[n]: some of the model's weights."""
    proximal: float = 0.0
    """The part of edited rows' guidance that is left out, see `negative_prompt.proximal`."""

    @property
    def images(self) -> int:
        return self.latent.shape[0]

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        tensors = {
            "sigmas": self.sigmas,
            "trajectory": self.found.trajectory,
            "latent": self.latent,
            "reconstruction": self.reconstruction,
            "source": self.source,
            "negative": self.negative,
            "probe": self.probe,
        }
        if self.found.nulls is not None:
            tensors["nulls"] = self.found.nulls
        facts = {name: getattr(self, name) for name in FACTS}
        facts |= {name: getattr(self.found, name) for name in FLAGS}
        metadata = {FORMAT: VERSION, "facts": json.dumps(facts)}
        part = path.with_name(path.name + ".part")
        try:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, part, metadata)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Inversion:
        """Read a file that `save` wrote; raises `ValueError` for any other."""
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(
                f"Expected an inversion's safetensors file, got {path.name}, which cannot be read: "
                f"{error}. Save the inversion again."
            ) from error
        if metadata.get(FORMAT) != VERSION:
            raise ValueError(
                f"Expected an inversion of version {VERSION}, got {path.name} "
                f"with {metadata.get(FORMAT, 'none')}. Save the inversion again with this pack."
            )
        try:
            facts = json.loads(metadata["facts"])
            facts["psnr"] = tuple(facts["psnr"])
            found = Found(
                tensors.pop("trajectory"),
                tensors.pop("nulls", None),
                **{name: facts.pop(name) for name in FLAGS},
            )
            inversion = cls(found=found, **tensors, **facts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Expected all parts of an inversion, got {path.name} without some: {error}. "
                "Save the inversion again."
            ) from error
        inversion.check_whole(path.name)
        return inversion

    def check_whole(self, name: str) -> None:
        """Raises `ValueError` where the parts' shapes do not fit or numbers are not finite."""
        levels, shape = len(self.sigmas), (len(self.sigmas), *self.latent.shape)
        parts = [self.sigmas, self.found.trajectory, self.latent, self.reconstruction, self.probe]
        if (
            self.found.trajectory.shape != shape
            or self.reconstruction.shape != self.latent.shape
            or len(self.psnr) != self.images
            or (self.found.nulls is not None and len(self.found.nulls) != levels - 1)
            or not all(torch.isfinite(part).all() for part in parts)
        ):
            raise ValueError(
                f"Expected an inversion whose parts fit together, got {name}, whose do not. "
                "Save the inversion again."
            )

    def check_model(self, probe: Tensor) -> None:
        """Raises `ValueError` if `probe` is not of the model that the inversion was made with."""
        if not _alike(self.probe, probe):
            raise ValueError(
                f"Expected the model that the inversion of {self.prompt!r} was made with, got "
                "another. Load that model, with the same LoRAs, or invert the image with this one."
            )

    def check_texts(self, prompt: str, source: Tensor, negative: Tensor) -> None:
        """Raises `ValueError` if the prompt or its embeddings' summaries are others."""
        if prompt != self.prompt:
            raise ValueError(
                f"Expected the source prompt of the inversion, {self.prompt!r}, got {prompt!r}. "
                "Use the inversion's own source prompt for editing."
            )
        for name, own, given in (
            ("source", self.source, source),
            ("negative", self.negative, negative),
        ):
            if not _alike(own, given):
                raise ValueError(
                    f"Expected the {name} conditioning that the inversion was made with, got "
                    "another. Use the same text encoder and the same negative prompt for both."
                )

    def check_schedule(self, sigmas: Tensor) -> None:
        """Raises `ValueError` if the run's noise levels are not those of the inversion."""
        if len(sigmas) != len(self.sigmas):
            raise ValueError(
                f"Expected {len(self.sigmas) - 1} steps, as the inversion was made with, got "
                f"{len(sigmas) - 1}. Set steps and scheduler as they were, and "
                "denoise to 1, or invert anew."
            )
        if not torch.allclose(sigmas.cpu().float(), self.sigmas.float(), rtol=1e-4):
            raise ValueError(
                "Expected the noise levels that the inversion was made with, got others. Choose "
                "the scheduler that the inversion was made with."
            )

    def check_sampler(self, name: str) -> None:
        """Raises `ValueError` for a sampler that does not go back along the inversion."""
        if not self.found.put_back and name not in FOLLOWING:
            raise ValueError(
                f"Expected the sampler euler for an inversion by {self.method}, got {name}. Choose "
                "euler, or invert by the method direct, which any sampler can follow."
            )

    def check_guidance(self, guidance: float) -> None:
        """Raises `ValueError` for another guidance than null texts were optimised for."""
        if self.found.nulls is not None and guidance != self.guidance:
            raise ValueError(
                f"Expected a cfg of {self.guidance:g}, which the null texts were optimised for, "
                f"got {guidance:g}. Set cfg to {self.guidance:g}, or invert with the other."
            )

    def check_latent(self, latent: Tensor) -> None:
        """Raises `ValueError` if `latent`, as nodes pass it, is not the inverted one."""
        if latent.shape != self.latent.shape:
            raise ValueError(
                f"Expected the latent that was inverted, {list(self.latent.shape)}, got "
                f"{list(latent.shape)}. Use the same image for both."
            )
        if not _alike(self.latent, latent.cpu()):
            raise ValueError(
                "Expected the latent that was inverted, got another image's. "
                "Use the same image for both, or invert this one."
            )


FOLLOWING = ("euler", "ddim")
"""Samplers that go back along a walk of DDIM steps: two names of one."""
FACTS = ("method", "prompt", "guidance", "psnr", "proximal")
FLAGS = ("put_back", "shared", "source_as_negative")


def probed(weights: Mapping[str, Tensor]) -> Tensor:
    """A few of a network's weights, to tell it from others: float[n]."""
    keys = sorted(key for key in weights if key.endswith(("bias", "attn2.to_k.weight")))
    chosen = [keys[n * len(keys) // PROBED] for n in range(PROBED)]
    return torch.cat([weights[key].flatten()[:PROBED].float().cpu() for key in chosen])


def summary(tokens: Tensor) -> Tensor:
    """What tells one text's embedding, float[rows tokens channels], from another's: float[n]."""
    return torch.stack([tokens.float().mean(-1), tokens.float().std(-1)]).flatten().cpu()


def psnr(images: Tensor, others: Tensor) -> tuple[float, ...]:
    """Of each image, float[images height width 3] in 0–1, in dB; at most 100."""
    error = (images.float() - others.float()).square().flatten(1).mean(1)
    return tuple(float(-10 * torch.log10(one.clamp(min=1e-10))) for one in error)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= CLOSE * a.abs().max())
