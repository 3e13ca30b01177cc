"""Workers that are processes of this machine."""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from pebble import ProcessPool

from .job import Job
from .pool import Outcome
from .worker import begin, carry_out


@dataclass
class LocalWorkers:
    """So many processes; one that dies is replaced, and its job's future says so."""

    count: int
    _pool: Any = field(default=None, init=False)

    def __enter__(self) -> LocalWorkers:
        context: Any = get_context("spawn")  # a forked process cannot use an accelerator
        numbers = context.Value("i", 0)
        self._pool = ProcessPool(
            max_workers=self.count, context=context, initializer=begin, initargs=(numbers,)
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.stop()
        self._pool.join()

    def submit(self, job: Job) -> Future[Outcome]:
        threads = max(1, (os.cpu_count() or 1) // self.count)
        try:
            return self._pool.schedule(carry_out, args=(job, threads))
        except RuntimeError as error:
            raise OSError(f"Workers cannot be started: {error}.") from error
