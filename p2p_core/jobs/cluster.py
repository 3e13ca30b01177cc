"""Workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from .engine import Outcome
from .manifest import Job
from .worker import carry_out

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, for as long as the run lasts."""


@dataclass
class RayWorkers:
    """So many actors, with an accelerator each if the cluster has any.

    The pack must be installed on every machine, and they must share the folder that is written to.
    Raises `ValueError` where Ray is not installed or the cluster does not answer.
    """

    count: int
    address: str
    _ray: Any = field(default=None, init=False)
    _hire: Any = field(default=None, init=False)
    _idle: SimpleQueue[Any] = field(default_factory=SimpleQueue, init=False)

    def __enter__(self) -> RayWorkers:
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                "Expected Ray to be installed for --ray, but it is not. "
                "Run: pip install 'prompt-to-prompt[ray]'"
            ) from error
        local = self.address == LOCAL
        try:
            _knock(self.address)
            ray.init(
                address=LOCAL if local else self.address,
                num_cpus=max(self.count, os.cpu_count() or 1) if local else None,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"Expected a Ray cluster at {self.address}, which does not answer: {error}. Give "
                "its address, such as ray://head:10001 or auto, or local."
            ) from error
        self._ray = ray
        resources = ray.cluster_resources()
        threads = max(1, int(resources.get("CPU", 1)) // self.count)
        accelerators = 1 if resources.get("GPU", 0) > 0 else 0
        actor: Any = ray.remote(num_cpus=1, num_gpus=accelerators)(Worker)
        self._hire = lambda: actor.remote(threads)
        for _ in range(self.count):
            self._idle.put(self._hire())
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()

    def submit(self, job: Job) -> Future[Outcome]:
        actor = self._idle.get()
        future: Future[Outcome] = actor.carry_out.remote(job).future()

        def free(done: Future[Outcome]) -> None:
            """An actor that failed is replaced: one that died takes no more jobs."""
            self._idle.put(self._hire() if done.exception() else actor)

        future.add_done_callback(free)
        return future


def _knock(address: str) -> None:
    """Raises `OSError` where nobody is; Ray would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class Worker:
    """An actor's work."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def carry_out(self, job: Job) -> Outcome:
        return carry_out(job, self.threads)
