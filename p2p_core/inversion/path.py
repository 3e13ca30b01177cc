"""The path of a known source: what its rows are set to while a sampler runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .task import Found

SAME_LEVEL = 1e-4
"""Noise levels that are one differ by less, relative to them."""

SAME_START = 1e-2
"""Latents that begin as a path does differ by less, relative to the largest value."""


class Path:
    """Where a known source is at each evaluation of a sampler; changes as sampling goes on.

    Either at every level of a schedule, `sigmas`, or, where a trajectory has levels of its own, at
    each evaluation of the sampler in its order, whatever it evaluates between two steps.
    """

    def __init__(self, found: Found, sigmas: Sequence[float]) -> None:
        self.found, self.sigmas = found, sigmas
        self.followed = False
        """Whether the sources stand on the path now."""
        self._next: int | None = None
        self._left = False

    @property
    def end(self) -> Tensor:
        """The sources' images, in the sampler's space: float[images channels height width]."""
        return self.found.trajectory[-1]

    def at(self, sigma: float) -> Tensor | None:
        """Give the sources' latents at a level that is evaluated next; None off the path."""
        here = self._number(sigma)
        self.followed = here is not None
        return None if here is None else self.found.trajectory[here]

    def start(self, x: Tensor, sigma: float) -> None:
        """Raises `ValueError` if a run's first latents are not where a path of evaluations is."""
        if self.found.levels is None or self._next is not None:
            return
        here = self._number(sigma)
        path = None if here is None else self.found.trajectory[here].to(x)
        if path is None or (path - x).abs().max() > SAME_START * path.abs().max():
            raise ValueError(
                "Expected sampling to begin with the noise and at the noise level of the sampled "
                "source, got others. Use the seed, latent and schedule of P2P Sample Source."
            )
        self._next = here

    def finished(self, sigma: float) -> Tensor | None:
        """Give the sources' latents at the level where a run ends.

        None where the path has none, and for a run that left it on its way.
        """
        levels = self.found.levels
        if self._left:
            return None
        if levels is None:
            return self.at(sigma)
        here = [n for n, level in enumerate(levels) if _same(level, sigma)]
        return self.found.trajectory[here[-1]] if here else None

    def _number(self, sigma: float) -> int | None:
        """The number of the latents of the next evaluation; it then counts as done."""
        levels = self.found.levels
        if levels is None:
            return min(range(len(self.sigmas)), key=lambda n: abs(self.sigmas[n] - sigma))
        if self._next is None:  # a step begins where its level comes for the last time
            return max((n for n, level in enumerate(levels) if _same(level, sigma)), default=None)
        here = self._next
        if self._left or here >= len(levels) or not _same(levels[here], sigma):
            self._left = True  # who leaves it does not come back
            return None
        self._next += 1
        return here


def _same(level: float, sigma: float) -> bool:
    return abs(level - sigma) <= SAME_LEVEL * level
