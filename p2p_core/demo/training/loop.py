"""What every training loop needs: its state on disk, its learning rate, its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..networks import log

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM_UP = 200
"""Steps in which the learning rate rises to its peak."""
END = 0.02
"""The last learning rate as a part of the peak."""
ANNEALING = 0.2
"""The part of the steps in which `plateau` falls."""

Schedule = Callable[[int, int], float]
"""(step, of how many) → the learning rate as a part of the peak."""


def cosine(step: int, steps: int) -> float:
    """Rise linearly, then fall along a cosine."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return _warm_up(step) * (END + (1 - END) * fall)


def plateau(step: int, steps: int) -> float:
    """Rise linearly, stay at the peak, then fall straight over the last fifth.

    Where it stands does not depend on how many steps are to come, so a run of unknown length can be
    ended by asking for a few hundred steps more, or carried on by asking for many.
    """
    left = (steps - step) / (ANNEALING * steps)
    return _warm_up(step) * max(END, min(1.0, left))


def _warm_up(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP)


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Save float[n 3 h w] in [−1, 1] as one picture, `columns` wide."""
    count = len(images) // columns * columns or len(images)
    pixels = ((images[:count].float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    grid = rearrange(pixels, "(r c) ch h w -> (r h) (c w) ch", c=min(columns, count))
    Image.fromarray(grid).save(path)


class Stage:
    """A training loop's state on disk: one file, written whole, read when the run starts again."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        extra: nn.Module | None = None,
    ):
        self.path, self.model, self.optimiser, self.extra = path, model, optimiser, extra
        self.step = 0
        if path.exists():
            state = torch.load(path, map_location=DEVICE, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            if extra is not None:
                extra.load_state_dict(state["extra"])
            self.step = int(state["step"])
            log.info("%s: resuming at step %d", path.name, self.step)

    def save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "extra": self.extra.state_dict() if self.extra is not None else None,
            "step": self.step,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def run(
        self, steps: int, peak: float, every: int, schedule: Schedule = cosine
    ) -> Iterator[int]:
        """Yield step numbers; set the learning rate; save every `every` steps and at the end."""
        bar = tqdm(total=steps, initial=self.step, desc=self.path.stem, mininterval=5)
        while self.step < steps:
            torch.manual_seed(1_000_003 * len(self.path.stem) + self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = peak * schedule(self.step, steps)
            yield self.step
            self.step += 1
            bar.update()
            if self.step % every == 0 or self.step == steps:
                self.save()
        bar.close()
