"""When an edit acts: windows over the progress of sampling."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Window:
    """Act while start ≤ progress < end, where progress runs from 0 (noise) to 1 (image).

    The paper's τ: `Window(0, 0.8)` acts in the first 40 of 50 steps. Equal ends: never. `fade`
    makes ramps of the ends: the weight falls to 0 over the last `fade` of progress before the end,
    and rises from 0 over the first `fade` after a start that is not 0.

    Raises `ValueError` for a number outside 0–1 or a window that ends before it starts.
    """

    start: float = 0.0
    end: float = 1.0
    fade: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 <= self.end <= 1:
            raise ValueError(
                f"Expected a window within 0 and 1, got {self.start:g} to {self.end:g}. "
                "Both ends are fractions of the sampling steps: 0.8 is 80 % of them."
            )
        if not 0 <= self.fade <= 1:
            raise ValueError(
                f"Expected a fade within 0 and 1, got {self.fade:g}. It is a fraction of the "
                "sampling steps: 0 is a hard end, 0.2 lets go over 20 % of them."
            )
        if self.start > self.end:
            raise ValueError(
                f"Expected a window that starts before it ends, got {self.start:g} to "
                f"{self.end:g}. Swap the two ends."
            )

    def weight(self, progress: float) -> float:
        """Say how much the edit acts at this progress: 1 inside, 0 outside, between on a ramp.

        >>> [Window(0, 0.5, fade=0.25).weight(progress) for progress in (0, 0.25, 0.375, 0.5)]
        [1.0, 1.0, 0.5, 0.0]
        """
        inside = self.start - _TOLERANCE <= progress < self.end - _TOLERANCE
        if not inside or not self.fade:
            return float(inside)
        falling = (self.end - progress) / self.fade
        rising = (progress - self.start) / self.fade if self.start > 0 else 1.0
        return max(0.0, min(1.0, falling, rising))


@dataclass(frozen=True)
class Schedule:
    """When an edit acts on which words: a window for all of them, others for some.

    The paper's figure 5: "butterfly" through the whole run and everything else for a fifth of it is
    `Schedule(Window(0, 0.2), (("butterfly", Window()),))`. Words are those of the edited prompt.
    """

    window: Window = field(default_factory=Window)
    words: tuple[tuple[str, Window], ...] = ()


def progress(sigma: float, sigmas: Sequence[float]) -> float:
    """Say how far sampling has come at noise level `sigma`, in 0–1.

    `sigmas` are the run's levels, falling, the last one (usually 0) being the end. On the grid this
    is i / steps; between two levels, where multi-stage samplers evaluate too, it is interpolated in
    log σ. It depends on σ alone, so it does not matter how often a sampler calls the network.

    Raises `ValueError` if there are fewer than two levels or they do not fall.

    >>> [progress(sigma, [8.0, 4.0, 1.0, 0.25, 0.0]) for sigma in (8.0, 1.0, 0.5, 0.0)]
    [0.0, 0.5, 0.625, 1.0]
    """
    if len(sigmas) < 2 or any(a < b for a, b in pairwise(sigmas)):
        raise ValueError(
            f"Expected at least two falling noise levels, got {list(sigmas)}. "
            "Give the sampler a falling schedule."
        )
    steps = len(sigmas) - 1
    if sigma >= sigmas[0] * (1 - _TOLERANCE):
        return 0.0
    if sigma <= sigmas[-1]:
        return 1.0
    below = bisect_right([-s for s in sigmas], -sigma * (1 + _TOLERANCE))
    above, under = sigmas[below - 1], sigmas[below]
    part = log(above / sigma) / log(above / under) if under > 0 else (above - sigma) / above
    return (below - 1 + min(max(part, 0.0), 1.0)) / steps
