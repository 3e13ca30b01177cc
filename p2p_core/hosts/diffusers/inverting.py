"""Inverting images in diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from ...inversion.gradients import trainable
from ...inversion.methods import Options
from ...inversion.record import Inversion, Spacing, psnr, summary
from ...inversion.task import Embedding, Progress, Task, classifier_free, replay
from .flow import FlowModel
from .pipeline import Model
from .replaying import probe
from .sampling import Settings, repeated_rows


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
) -> Inversion:
    """Invert images, float[images channels height width], for `sampling.sample`.

    Of `settings`, steps, cfg, denoise and scheduler count, and the seed for methods that add noise.
    `watch` is told of every evaluation and stops the inversion by raising. Raises `ValueError` as
    the method does.
    """
    options, settings = options or Options(), settings or Settings()
    if isinstance(model, FlowModel):
        raise ValueError(
            f"Expected a diffusion model to invert images with, got {model.kind.name}, which "
            "matches flows. Edit images that it samples, or load one of SD1.x, SD2.x or SDXL."
        )
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
    unet = model.pipeline.unet
    source, uncond = (
        repeated_rows(model.encode([text]), len(latent)) for text in (prompt, negative)
    )
    levels = model.sigmas(settings.steps, settings.denoise, settings.scheduler)

    def denoise(x: Tensor, sigma: float, *texts: Embedding | None) -> Sequence[Tensor]:
        given = [text for text in texts if text]
        tokens = torch.cat([text.tokens for text in given])
        rest = None if given[0].rest is None else torch.cat([text.rest for text in given])
        several = x.repeat(len(given), 1, 1, 1)
        prediction = model.predict(several, sigma, Embedding(tokens, rest))
        return model.image(several, sigma, prediction).chunk(len(given))

    def draw(latents: Tensor, n: int) -> Tensor:
        generator = torch.Generator().manual_seed((settings.seed + n) % 2**64)
        return torch.randn(latents.shape, generator=generator)

    task = Task(
        denoise,
        latent.to(model.device).float() * model.scale,
        tuple(levels),
        replace(source, tokens=source.tokens.float()),
        replace(uncond, tokens=uncond.tokens.float()),
        classifier_free(settings.cfg),
        watch,
    )
    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    with trainable(unet, blocks, low_memory):
        found = options(task, draw)
    with torch.no_grad():
        result = replay(replace(task, watch=lambda progress: None), found) / model.scale
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
    )
