"""What inverting an image is: a task that every method gets, and the walk it does it with.

Latents are in the sampler's own space, where an image and noise make up x as its `Space` says; a
network is a function that tells the image from such an x. In that space a step of Euler's method is
x + (σ_next − σ) · (x − denoised) / σ, which is a DDIM step (η = 0) of a diffusion model, whether it
predicts noise or v, and the plain step of a flow model. So no method knows which it inverts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """A text as the network gets it, one row per image."""

    tokens: Tensor
    """float[images tokens channels]."""
    rest: Any = None
    """What else the host gives its network with this text (pooled vectors); the host's business."""


class Denoise(Protocol):
    """The network: the image that it sees in x at noise level σ, differentiable in the tokens."""

    def __call__(self, x: Tensor, sigma: float, *texts: Embedding | None) -> Sequence[Tensor]:
        """Predict the image, float[images channels height width], once for each text.

        The first stands in the positive prompt's place, the second in the negative's, which patches
        of a network tell apart; none is evaluated where there is None.
        """
        ...


class Guide(Protocol):
    """The image that guidance makes of a host's two predictions, differentiable in them."""

    def __call__(
        self, x: Tensor, sigma: float, source: Tensor, uncond: Tensor, null: Embedding
    ) -> Tensor:
        """Guide the predictions `source` for the source text and `uncond` for `null`."""
        ...


def classifier_free(guidance: float) -> Guide:
    """Guide plainly by a scale; at 1 the null text does not count (Ho & Salimans 2021).

    >>> x, null = torch.zeros(1), Embedding(torch.zeros(1, 1, 1))
    >>> classifier_free(7.5)(x, 1.0, torch.tensor([3.0]), torch.tensor([1.0]), null)
    tensor([16.])
    """

    def guide(x: Tensor, sigma: float, source: Tensor, uncond: Tensor, null: Embedding) -> Tensor:
        return source if guidance == 1 else uncond + guidance * (source - uncond)

    return guide


@dataclass(frozen=True)
class Space:
    """How noise lies over images in a sampler's space: all that tells kinds of models apart."""

    noised: Callable[[Tensor, Tensor, float], Tensor]
    """(image, noise, σ) → x at level σ."""
    c_in: Callable[[float], float]
    """σ → what x is multiplied with for the network to see."""


def c_in(sigma: float) -> float:
    """Scale x at level σ to what diffusion models see: 1/√(1 + σ²).

    Karras et al. 2022, for data of unit variance.
    """
    return 1 / sqrt(1 + sigma * sigma)


DIFFUSION = Space(lambda image, noise, sigma: image + sigma * noise, c_in)
"""That of models which predict noise or v."""

FLOW = Space(lambda image, noise, sigma: (1 - sigma) * image + sigma * noise, lambda sigma: 1.0)
"""That of models which predict the velocity along a straight line: Liu et al. 2023, σ in 0–1."""


Draw = Callable[[Tensor, int], Tensor]
"""(latents, n) → the nth noise for them, of their shape."""


@dataclass(frozen=True)
class Progress:
    """Where a method is: for bars, previews and whoever wants to stop it by raising."""

    done: int
    total: int
    image: Tensor
    """The image as the network sees it now, in the sampler's space."""
    loss: float | None = None


@dataclass(frozen=True)
class Task:
    """An image to be inverted, and all that a method needs for it.

    `sigmas` fall from the noisiest level to 0. Raises `ValueError` for levels that do not, for a
    latent that is not finite, and for texts of another number of rows.
    """

    denoise: Denoise
    latent: Tensor
    """float[images channels height width]."""
    sigmas: tuple[float, ...]
    source: Embedding
    negative: Embedding
    guide: Guide
    space: Space
    watch: Callable[[Progress], None] = lambda progress: None

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in pairwise(self.sigmas))
        if len(self.sigmas) < 2 or not falling or self.sigmas[-1] != 0:
            raise ValueError(
                f"Expected noise levels that fall to 0, got {list(self.sigmas)}. "
                "Invert over a whole schedule."
            )
        if not torch.isfinite(self.latent).all():
            raise ValueError(
                "Expected a latent of finite numbers, got some that are not. The autoencoder "
                "may have overflowed in half precision: run it in fp32 or bf16."
            )
        for name in ("source", "negative"):
            rows = getattr(self, name).tokens.shape[0]
            if rows != len(self.latent):
                raise ValueError(
                    f"Expected a {name} text for each of {len(self.latent)} image(s), got {rows}."
                )

    @property
    def steps(self) -> list[tuple[float, float]]:
        """The steps from noise to image: (level, next level)."""
        return list(pairwise(self.sigmas))

    def slope(self, x: Tensor, sigma: float, text: Embedding) -> Tensor:
        """Compute dx/dσ as the network sees it: noise, or on a straight line noise − image."""
        (image,) = self.denoise(x, sigma, text)
        return (x - image) / sigma

    def guided(
        self, x: Tensor, sigma: float, null: Embedding, source: Tensor | None = None
    ) -> Tensor:
        """Compute dx/dσ under guidance of the source text against `null`, as sampling has it.

        `source` is the prediction for the source text, where it is known.
        """
        if source is None:
            source, uncond = self.denoise(x, sigma, self.source, null)
        else:
            (uncond,) = self.denoise(x, sigma, None, null)
        return (x - self.guide(x, sigma, source, uncond, null)) / sigma


@dataclass(frozen=True)
class Found:
    """What a method found out: how to sample so that the source image comes out."""

    trajectory: Tensor
    """float[levels images channels height width], from the noisiest level to the image itself."""
    null_embeddings: Tensor | None = None
    """float[steps images tokens channels]: the negative tokens of each step; None: as given."""
    restore_source: bool = False
    """Whether the source's row is set to the trajectory at every level."""
    shared: bool = False
    """Whether the edited rows are moved by as much as their source when it is restored."""
    source_as_negative: bool = False
    """Whether the source text is the negative one."""
    residual: Tensor | None = None
    """float[steps images channels height width]: how far from the latents of each step the network
    is asked about them, sources and edits alike; None: not at all."""
    levels: tuple[float, ...] | None = None
    """The noise level of each latent of a trajectory that holds every evaluation of a sampler, and
    what came of them; None: those of the schedule."""

    def null_embeddings_at(self, progress: float) -> Tensor | None:
        """Pick the negative tokens at this progress of sampling, 0–1; None: as given.

        float[images tokens channels].
        """
        if self.null_embeddings is None:
            return None
        steps = len(self.null_embeddings)
        return self.null_embeddings[min(int(progress * steps + 1e-3), steps - 1)]

    def residual_at(self, sigma: float, sigmas: Sequence[float]) -> Tensor | None:
        """Pick the residual of the step that begins at σ, of a schedule `sigmas`; None: none."""
        if self.residual is None:
            return None
        here = (n for n, level in enumerate(sigmas[:-1]) if abs(level - sigma) <= 1e-4 * level)
        step = next(here, None)
        return None if step is None else self.residual[step]

    def cpu(self) -> Found:
        """Copy it to main memory, outside any graph of gradients."""
        own = {name: getattr(self, name) for name in ("trajectory", "null_embeddings", "residual")}
        return replace(
            self, **{name: None if one is None else one.detach().cpu() for name, one in own.items()}
        )


def replay(task: Task, found: Found) -> Tensor:
    """Sample the source image as an edited run will: float[images channels height width]."""
    if found.restore_source:
        return found.trajectory[-1]
    x = found.trajectory[0]
    for n, (sigma, sigma_next) in enumerate(task.steps):
        null = task.source if found.source_as_negative else task.negative
        if found.null_embeddings is not None:
            null = Embedding(found.null_embeddings[n], null.rest)
        x = x + (sigma_next - sigma) * task.guided(x, sigma, null)
        task.watch(Progress(n + 1, len(task.steps), x))
    return x
