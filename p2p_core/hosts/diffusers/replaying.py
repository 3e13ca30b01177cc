"""Whether a run in diffusers is the one that an inversion was made for."""

from __future__ import annotations

import torch

from ...controller import Controller
from ...inversion.record import Facts, Inversion, Spacing, probed
from ...inversion.task import Embedding
from .pipeline import Model
from .settings import Settings


def probe(model: Model) -> torch.Tensor:
    """Read some of a model's weights, to tell it from others: float[n]."""
    return probed(model.network.state_dict())


def check(
    inversion: Inversion,
    model: Model,
    controller: Controller,
    settings: Settings,
    levels: list[float],
    source: Embedding,
    negative: Embedding,
) -> None:
    """Raises `ValueError` naming what is not as it was when the image was inverted."""
    spacing = None
    if settings.named:
        spacing = Spacing(settings.steps, settings.scheduler, settings.denoise)
    inversion.check(
        Facts(
            probe=probe(model),
            prompt=controller.source.text,
            source=source.tokens[:1],
            negative=negative.tokens[:1],
            sigmas=torch.tensor(levels),
            spacing=spacing,
            sampler=settings.sampler if settings.named else type(settings.scheduler).__name__,
            guidance=settings.cfg,
        )
    )
