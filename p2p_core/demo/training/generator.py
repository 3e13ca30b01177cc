"""The second stage, the same for either model: pictures from words."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .loop import DEVICE, Schedule, Stage, save_sheet
from .world import World

log = logging.getLogger("p2p.train")

FOCUS = 5.0
"""The loss weighs objects up to 1 + FOCUS times as much as the ground, which is learnt first."""
GROUNDING = 0.05
"""Weight of the loss that lays a word's attention map on its object (after Wang et al. 2024,
TokenCompose: attention supervised with the masks of what the words name)."""
AVERAGED = 0.999
"""How much of the averaged weights, which are what is exported, a step leaves as they are."""
SAVE_EVERY, SHEET_EVERY = 100, 500
SHEET_PROMPTS = (
    "a red circle on the grass",
    "a big striped blue square on sand",
    "a purple star in the snow",
    "a yellow heart at night",
    "a black ring in the sky",
    "a dotted green triangle on stone",
    "a small orange cross in the sea",
    "a pink moon on clay",
    "a red star left of a blue ring on sand",
    "a green heart above a yellow square on stone",
    "a circle on the left in the snow",
    "an orange moon and a purple cross in the sky",
)


@dataclass(frozen=True)
class Task:
    """What differs between the models that are trained.

    Attributes:
        name: Of the files of its state and its sheet.
        model: Called with (x, t, ids, which) it predicts; has `word_maps()`.
        noised: Latents → (x, t, what the model should predict).
        sample: (model, ids, ids of the empty caption) → latents of pictures to look at.
        export: Writes a model to its checkpoint.
        schedule: Of the learning rate.
    """

    name: str
    model: nn.Module
    noised: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    sample: Callable[[nn.Module, Tensor, Tensor], Tensor]
    export: Callable[[nn.Module], object]
    schedule: Schedule


def train_generator(task: Task, world: World, out: Path, options: argparse.Namespace) -> None:
    """Train the task's model, from where an earlier run in `out` stopped; export its average."""
    model, steps = task.model, options.generator_steps
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_average)
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": 1e-2},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    stage = Stage(out / f"{task.name}.pt", model, optimiser, extra=average)
    started, losses = time.monotonic(), []
    for step in stage.run(steps, options.peak, SAVE_EVERY, task.schedule):
        batch = world.draw(step, options.batch)
        x, t, target = task.noised(batch.latents)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            predicted = model(x, t, batch.ids, batch.which)
        error = (predicted.float() - target).square()
        objects = batch.regions.sum(1, keepdim=True)
        weight = 1 + FOCUS * F.max_pool2d(objects, 3, stride=1, padding=1)
        regions = rearrange(batch.regions, "b o h w -> b o (h w)")
        astray = grounding_loss(model.word_maps(), batch.described, regions)
        loss = (error * weight).mean() / weight.mean() + GROUNDING * astray
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        average.update_parameters(model)
        losses.append((loss.item(), astray.item()))
        if (step + 1) % SAVE_EVERY == 0:
            mean, mean_astray = np.mean(losses, axis=0)
            log.info(
                "%s %d: loss %.5f, of it grounding %.5f, %.3f s a step",
                task.name,
                step + 1,
                mean,
                GROUNDING * mean_astray,
                (time.monotonic() - started) / len(losses),
            )
            started, losses = time.monotonic(), []
        if (step + 1) % SHEET_EVERY == 0 or step + 1 == steps:
            ids, empty = (world.captions(texts) for texts in (list(SHEET_PROMPTS), [""]))
            pictures = world.decode(task.sample(average.module, ids.to(DEVICE), empty.to(DEVICE)))
            save_sheet(pictures, out / f"{task.name}.png", columns=6)
            task.export(average.module)
    task.export(average.module)


def _average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential; the first steps, of a model that knows nothing yet, are forgotten faster."""
    kept = min(AVERAGED, (1 + int(count)) / (10 + int(count)))
    return torch.lerp(current, averaged, kept)


def grounding_loss(maps: Sequence[Tensor], tokens: Tensor, regions: Tensor) -> Tensor:
    """Measure how badly words' maps lie on their objects: one minus their Dice overlap, 0 to 1.

    Maps are float[batch pixels tokens], each divided by its maximum; `tokens`, int64[batch tokens],
    tells each token's object or −1; regions are float[batch objects pixels] in 0–1. Maps may lack
    the last tokens.
    """
    tokens = tokens[:, : maps[0].shape[-1]]
    described = tokens >= 0
    index = repeat(tokens.clamp(min=0), "b t -> b t p", p=regions.shape[-1])
    wanted = regions.gather(1, index).mT
    losses: list[Tensor] = []
    for m in maps:
        m = m / m.amax(1, keepdim=True).clamp(min=1e-6)
        overlap = 2 * (m * wanted).sum(1) / (m.square() + wanted.square()).sum(1).clamp(min=1e-6)
        losses.append((1 - overlap)[described].mean())
    return torch.stack(losses).mean()
