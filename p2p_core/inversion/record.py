"""An inversion as a value: what was found for which image, prompt and model, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tokens import parted, shortened
from . import storage
from .explaining import verdict as verdict_of_prompt
from .task import Found

PROBED = 16
"""How many of a model's weights are looked at, and how many numbers of each."""
CLOSE = 0.02
"""How far numbers that tell things apart may be off, of the largest: half precision rounds."""


@dataclass(frozen=True)
class Spacing:
    """What noise levels were asked for by; `denoise` is how far towards noise they go, 0–1."""

    steps: int
    scheduler: str
    denoise: float

    def differences(self, other: Spacing) -> list[tuple[str, str, str]]:
        """List (what differs, how it is here, how it is there), in words."""
        said = {
            "steps": "{} steps",
            "scheduler": "the scheduler {}",
            "denoise": "a denoise of {:g}",
        }
        both = {name: (getattr(self, name), getattr(other, name)) for name in said}
        return [
            (name, said[name].format(own), said[name].format(its))
            for name, (own, its) in both.items()
            if own != its
        ]

    def __str__(self) -> str:
        return f"{self.steps} steps, the scheduler {self.scheduler}, a denoise of {self.denoise:g}"


@dataclass(frozen=True)
class Facts:
    """What a host is about to sample with, to be held against an inversion."""

    probe: Tensor
    """`probed` of the model's weights."""
    prompt: str
    source: Tensor
    """The source text's embedding: float[rows tokens channels]."""
    negative: Tensor | None
    """The negative text's, likewise; None where there is none."""
    sigmas: Tensor
    """float[levels]: of the run, which may be a part of `whole`."""
    spacing: Spacing | None
    sampler: str
    guidance: float
    whole: Tensor | None = None
    """float[levels]: of the schedule that the run is a part of; None: it is whole."""
    seed: int | None = None
    """That of the noise; None where there is none."""


@dataclass(frozen=True)
class Drawn:
    """How a source was sampled, that its edits are to be sampled by, too."""

    sampler: str
    seed: int


@dataclass(frozen=True)
class Inversion:
    """How to sample so that given images come out of a source prompt.

    `guidance` is the scale that it was made for, `psnr` the reconstruction's in dB, one per image.
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
    spacing: Spacing | None = None
    """What `sigmas` were asked for by; files of the first release do not tell."""
    picture: tuple[float, ...] = ()
    """How the pictures come back through the autoencoder, in dB, one an image; empty: not known."""
    limit: tuple[float, ...] = ()
    """What the autoencoder alone would give, likewise."""
    explained: tuple[float, ...] = ()
    """How well the prompt explains each image, see `explaining.explained`; empty: not known."""
    drawn: Drawn | None = None
    """How a source that was sampled was; of images that were given there is nothing to tell."""

    @property
    def images(self) -> int:
        return self.latent.shape[0]

    def save(self, path: Path) -> None:
        """Write a safetensors file that appears whole or not at all; raises `OSError`.

        Raises `ValueError` for a source that was sampled, which is sampled again as quickly.
        """
        if self.drawn is not None:
            raise ValueError(
                "Expected the inversion of a given image, got a sampled source. It need not be "
                "saved: P2P Sample Source makes it again from its settings."
            )
        tensors = {name: getattr(self, name) for name in TENSORS}
        tensors["trajectory"] = self.found.trajectory
        if self.found.null_embeddings is not None:
            tensors["nulls"] = self.found.null_embeddings
        if self.found.residual is not None:
            tensors["residual"] = self.found.residual
        facts = {name: getattr(self, name) for name in FACTS}
        facts |= {name: getattr(self.found, field) for name, field in FLAGS.items()}
        facts |= {name: getattr(self, name) for name in FIDELITY if getattr(self, name)}
        facts |= {} if self.spacing is None else asdict(self.spacing)
        storage.write(path, tensors, facts)

    @classmethod
    def load(cls, path: Path) -> Inversion:
        """Read a file that `save` wrote; raises `ValueError` for any other."""
        tensors, facts = storage.read(path)
        facts["psnr"] = tuple(facts["psnr"])
        found: dict[str, Any] = {field: facts[name] for name, field in FLAGS.items()}
        own: dict[str, Any] = {name: tensors[name] for name in TENSORS}
        own |= {name: facts[name] for name in FACTS}
        own |= {name: tuple(facts.get(name, ())) for name in FIDELITY}
        spaced = [facts.get(field.name) for field in fields(Spacing)]
        if None not in spaced:
            own["spacing"] = Spacing(*spaced)  # pyright: ignore[reportArgumentType]
        found |= {"null_embeddings": tensors.get("nulls"), "residual": tensors.get("residual")}
        return cls(found=Found(tensors["trajectory"], **found), **own)

    @property
    def settings(self) -> dict[str, int | float | str]:
        """What a sampler is to be set to, as far as it is known."""
        known = {} if self.spacing is None else asdict(self.spacing)
        return {"steps": len(self.sigmas) - 1, "cfg": self.guidance, **known}

    @property
    def report(self) -> str:
        """How well the picture comes back, in words and decibels."""
        if not self.picture:
            psnr = ", ".join(f"{one:.1f}" for one in self.psnr)
            exact = self.found.restore_source
            return "the latent comes back exactly" if exact else f"reconstruction {psnr} dB"
        picture, limit = (
            ", ".join(f"{one:.1f}" for one in some) for some in (self.picture, self.limit)
        )
        return (
            f"{verdict(self.picture, self.limit)}, the picture comes back with {picture} dB "
            f"(the autoencoder alone: {limit} dB)"
        )

    @property
    def report_of_prompt(self) -> str:
        """How well the prompt explains the images, in a word and the part of what is open."""
        if not self.explained:
            return ""
        parts = ", ".join(f"{max(0.0, one):.0%}" for one in self.explained)
        word = verdict_of_prompt(self.explained)
        remedy = {
            "good": "",
            "fair": ": name what else is large in the image",
            "poor": ": look for words that are wrong, or name what the image shows",
        }[word]
        return f"{word}, the prompt explains {parts} of what the negative leaves open{remedy}"

    @property
    def restored(self) -> Found | None:
        """What the sources' rows are set to at every level, where they are."""
        return self.found if self.found.restore_source else None

    def check(self, run: Facts) -> None:
        """Raises `ValueError` naming what is not as it was when the image was inverted."""
        self.check_model(run.probe)
        self.check_texts(run.prompt, run.source, run.negative)
        if self.drawn is not None:
            self.check_schedule(run.sigmas if run.whole is None else run.whole, run.spacing)
            self.check_part(run.sigmas)
            self.check_drawn(self.drawn, run.sampler, run.seed)
        else:
            self.check_schedule(run.sigmas, run.spacing)
        self.check_sampler(run.sampler)
        self.check_guidance(run.guidance)

    def check_model(self, probe: Tensor) -> None:
        """Raises `ValueError` if `probe` is not of the model that the inversion was made with."""
        if not _alike(self.probe, probe):
            raise ValueError(
                f"Expected the model that the inversion of {shortened(self.prompt)!r} was made "
                "with, got another. Load that model, with the same LoRAs, or invert the image with "
                "this one."
            )

    def check_texts(self, prompt: str, source: Tensor, negative: Tensor | None) -> None:
        """Raises `ValueError` for other words or embeddings, float[rows tokens channels]."""
        if prompt != self.prompt:
            own, given = parted(self.prompt, prompt)
            raise ValueError(
                f"Expected the source prompt of the inversion, {own!r}, got {given!r}. "
                "Use the inversion's own source prompt for editing."
            )
        for name, own, given in (
            ("source", self.source, source),
            ("negative", self.negative, negative),
        ):
            if given is not None and not _alike(own, summary(given)):
                raise ValueError(
                    f"Expected the {name} conditioning that the inversion was made with, got "
                    "another. Use the same text encoder and the same negative prompt for both."
                )
        null_embeddings = self.found.null_embeddings
        if null_embeddings is None or negative is None:
            return
        tokens, channels = null_embeddings.shape[2:]
        if channels != negative.shape[2] or tokens < negative.shape[1]:  # some networks add tokens
            raise ValueError(
                f"Expected null texts of {list(negative.shape[1:])} tokens and channels, as the "
                f"text encoder has, got {[tokens, channels]}. Invert the image anew."
            )

    def check_schedule(self, sigmas: Tensor, spacing: Spacing | None = None) -> None:
        """Raises `ValueError` if the run's noise levels are not those of the inversion.

        `spacing` is what they were asked for by, where it is known.
        """
        own, given = self.sigmas.float(), sigmas.cpu().float()
        if own.shape == given.shape and torch.allclose(given, own, rtol=1e-4):
            return
        differ = self.spacing.differences(spacing) if self.spacing and spacing else []
        if differ:
            names, ours, theirs = (" and ".join(words) for words in zip(*differ, strict=True))
            raise ValueError(
                f"Expected {ours}, as the inversion was made with, got {theirs}. Set {names} as "
                "they were, or invert the image with what you want."
            )
        known = f" by {self.spacing}" if self.spacing else ""
        raise ValueError(
            f"Expected the noise levels that the inversion was made with{known}: "
            f"{len(own) - 1} steps from {float(own[0]):.4g} to 0, got {len(given) - 1} from "
            f"{float(given[0]):.4g} to {float(given[-1]):.4g}. Set steps, scheduler and denoise as "
            "they were, and sample all steps, or invert the image anew."
        )

    def check_part(self, sigmas: Tensor) -> None:
        """Raises `ValueError` for levels that are no part of the schedule, one after the other."""
        own, given = self.sigmas.float(), sigmas.cpu().float()
        parts = own.unfold(0, len(given), 1) if len(given) <= len(own) else own.new_empty(0)
        if not any(torch.allclose(given, part, rtol=1e-4) for part in parts):
            raise ValueError(
                f"Expected a part of the schedule that the source was sampled with, got steps from "
                f"{float(given[0]):.4g} to {float(given[-1]):.4g}. Return with leftover noise "
                "where the last step is not done, or leave the inversion unconnected."
            )

    def check_drawn(self, drawn: Drawn, sampler: str, seed: int | None) -> None:
        """Raises `ValueError` for another sampler or seed than a sampled source's."""
        for name, own, given in (("sampler", drawn.sampler, sampler), ("seed", drawn.seed, seed)):
            if given is not None and given != own:
                raise ValueError(
                    f"Expected the {name} that the source was sampled with, {own}, got {given}. "
                    f"Set the {name} to {own}, or sample the source anew."
                )

    def check_sampler(self, name: str) -> None:
        """Raises `ValueError` for a sampler that does not go back along the inversion."""
        if not self.found.restore_source and name not in FOLLOWING:
            raise ValueError(
                f"Expected the sampler euler for an inversion by {self.method}, got {name}. Choose "
                "euler, or invert by the method direct, which any sampler can follow."
            )

    def check_guidance(self, guidance: float) -> None:
        """Raises `ValueError` for another guidance than null texts were optimised for."""
        if self.drawn is not None and guidance != self.guidance:
            raise ValueError(
                f"Expected a cfg of {self.guidance:g}, which the source was sampled with, got "
                f"{guidance:g}. Set cfg to {self.guidance:g}, or sample the source anew."
            )
        if self.found.null_embeddings is not None and guidance != self.guidance:
            raise ValueError(
                f"Expected a cfg of {self.guidance:g}, which the null texts were optimised for, "
                f"got {guidance:g}. Set cfg to {self.guidance:g}, or invert with the other."
            )

    def check_latent(self, latent: Tensor, *, begins: bool = True) -> None:
        """Raises `ValueError` if `latent`, as nodes pass it, is not the inverted one.

        Where no run `begins` with it but one goes on, its shape alone is looked at.
        """
        if latent.shape != self.latent.shape:
            raise ValueError(
                f"Expected the latent that was inverted, {list(self.latent.shape)}, got "
                f"{list(latent.shape)}. Use the same image for both."
            )
        if begins and not _alike(self.latent, latent.cpu()):
            raise ValueError(
                "Expected the latent that was inverted, got another image's. "
                "Use the same image for both, or invert this one."
            )


FOLLOWING = ("euler", "ddim")
"""Samplers that go back along a walk of DDIM steps: two names of one."""
TENSORS = ("sigmas", "latent", "reconstruction", "source", "negative", "probe")
FACTS = ("method", "prompt", "guidance", "psnr", "proximal")
FIDELITY = ("picture", "limit", "explained")
FLAGS = {
    "put_back": "restore_source",
    "shared": "shared",
    "source_as_negative": "source_as_negative",
}
"""In a file → in `Found`."""


def probed(weights: Mapping[str, Tensor]) -> Tensor:
    """Pick a few of a network's weights, to tell it from others: float[n]."""
    telling = [key for key in weights if key.endswith(("bias", "attn2.to_k.weight"))]
    keys = sorted(telling or weights)
    chosen = [keys[n * len(keys) // PROBED] for n in range(PROBED)]
    return torch.cat([weights[key].flatten()[:PROBED].float().cpu() for key in chosen])


def summary(tokens: Tensor) -> Tensor:
    """Sum up a text's embedding, float[rows tokens channels], to tell it from others: float[n]."""
    return torch.stack([tokens.float().mean(-1), tokens.float().std(-1)]).flatten().cpu()


def psnr(images: Tensor, others: Tensor) -> tuple[float, ...]:
    """Measure the PSNR of each image, float[images height width 3] in 0–1, in dB; at most 100."""
    error = (images.float() - others.float()).square().flatten(1).mean(1)
    return tuple(float(-10 * torch.log10(one.clamp(min=1e-10))) for one in error)


GOOD, FAIR = (30.0, 3.0), (25.0, 6.0)
"""Decibels: at least so many, or at most so many less than the autoencoder's own."""


def verdict(picture: Sequence[float], limit: Sequence[float]) -> str:
    """good, fair or poor: how the worst of some pictures comes back, both in dB.

    From 30 dB the eye sees little difference; 3 dB are twice the error, 6 dB four times.

    >>> verdict([27.0], [28.0]), verdict([26.0], [34.0]), verdict([24.0], [34.0])
    ('good', 'fair', 'poor')
    """
    for word, (enough, loss) in (("good", GOOD), ("fair", FAIR)):
        pairs = zip(picture, limit, strict=True)
        if all(one >= enough or best - one <= loss for one, best in pairs):
            return word
    return "poor"


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= CLOSE * a.abs().max())
