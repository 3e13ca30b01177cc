"""What a pool of workers is to whoever has work for it, and how an attempt went."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from .job import Job


@dataclass(frozen=True)
class Outcome:
    """How a case went, told by its worker."""

    begun: float
    """By the clock of the worker's machine, in seconds."""
    seconds: float
    worker: int
    error: str | None = None
    permanent: bool = False
    """Whether trying again would end the same."""
    fatal: bool = False
    """Whether every other case would end the same."""


class Workers(Protocol):
    """Whoever carries jobs out, at most `count` at a time."""

    @property
    def count(self) -> int: ...

    def submit(self, job: Job) -> Future[Outcome]:
        """Start a job; the future is its outcome, an error where its worker died."""
        ...


Pool = AbstractContextManager[Workers]
"""Workers while it lasts."""
