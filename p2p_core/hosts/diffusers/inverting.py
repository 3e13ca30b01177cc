"""Inverting images in diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from ...inversion.explaining import explained
from ...inversion.gradients import trainable
from ...inversion.methods import Options
from ...inversion.record import Inversion, Spacing, psnr, summary
from ...inversion.task import Embedding, Progress, Task, replay
from .pipeline import Model
from .replaying import probe
from .sampling import Settings, joined_texts, repeated_rows
from .scheduling import course_of


def invert(
    model: Model,
    latent: Tensor,
    prompt: str,
    options: Options | None = None,
    settings: Settings | None = None,
    *,
    negative: str = "",
    watch: Callable[[Progress], None] = lambda progress: None,
    low_memory: bool = True,
    explain: bool = False,
) -> Inversion:
    """Invert images, float[images channels height width], for `sampling.sample`.

    Of `settings`, steps, cfg, denoise, scheduler and guidance count, and the seed for methods that
    add noise. `watch` is told of every evaluation and stops the inversion by raising. With
    `explain` the prompt is measured, too, by a few evaluations more. Raises `ValueError` as the
    method does, and for one that needs a negative prompt at a cfg of 1, where there is none.
    """
    options, settings = options or Options(), settings or Settings()
    options.check_guidance(settings.cfg)
    model.check_latent(latent)
    model.read(prompt)
    if not settings.named:
        raise ValueError(
            f"Expected a scheduler by its name, got {type(settings.scheduler).__name__}."
        )
    if not options.suits(settings.sampler):
        raise ValueError(
            f"Expected the sampler euler for an inversion by {options.method}, got "
            f"{settings.sampler}. Choose euler, or invert by the method direct, which any sampler "
            "can follow."
        )
    source, uncond = (
        repeated_rows(model.encode([text]), len(latent)) for text in (prompt, negative)
    )
    levels = course_of(model, settings, latent.shape).levels

    def denoise(x: Tensor, sigma: float, *texts: Embedding | None) -> Sequence[Tensor]:
        given = [text for text in texts if text]
        together = reduce(joined_texts, given)
        several = torch.cat([x] * len(given))
        prediction = model.predict(several, sigma, together, settings.guidance)
        return model.image(several, sigma, prediction).chunk(len(given))

    def guide(x: Tensor, sigma: float, source: Tensor, uncond: Tensor, null: Embedding) -> Tensor:
        """Guide as the model's own pipeline does, which has dx/dσ for it."""
        if settings.cfg == 1:
            return source
        away, towards = ((x - image) / sigma for image in (uncond, source))
        return x - sigma * model.guided(away, towards, settings.cfg)

    def draw(latents: Tensor, n: int) -> Tensor:
        generator = torch.Generator().manual_seed((settings.seed + n) % 2**64)
        return torch.randn(latents.shape, generator=generator)

    task = Task(
        denoise,
        model.inward(latent.to(model.device).float()),
        tuple(levels),
        replace(source, tokens=source.tokens.float()),
        replace(uncond, tokens=uncond.tokens.float()),
        guide,
        model.space,
        watch,
    )
    with ExitStack() as stack:
        for network in model.networks:
            blocks = [m for m in network.modules() if isinstance(m, BasicTransformerBlock)]
            stack.enter_context(trainable(network, blocks, low_memory))
        found = options(task, draw)
    parts = explained(task, draw) if explain else ()
    with torch.no_grad():
        result = model.outward(replay(replace(task, watch=lambda progress: None), found))
    pictures = [torch.from_numpy(model.to_pictures(one) / 255) for one in (latent, result)]
    return Inversion(
        method=options.method,
        prompt=prompt,
        guidance=settings.cfg,
        sigmas=torch.tensor(levels),
        found=found.cpu(),
        latent=latent.cpu(),
        reconstruction=result.cpu(),
        psnr=psnr(*pictures),
        source=summary(source.tokens[:1]),
        negative=summary(uncond.tokens[:1]),
        probe=probe(model),
        proximal=options.proximal,
        spacing=Spacing(settings.steps, settings.scheduler, settings.denoise),
        explained=parts,
    )
