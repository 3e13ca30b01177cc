"""Workers of a Ray cluster, whose actors Ray starts again where they died.

Trying a job again is the engine's: Ray's task retries stay with one actor, which may wait for a
machine for ever while others are idle, and do not see that a worker died with its work done.
Neither has `ray.util.ActorPool` another actor for one that died; tasks without actors would load
a model in whatever process they came to.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .job import Job
from .pool import Outcome
from .worker import carry_out

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, for as long as the run lasts."""
TIMEOUT = 30.0
"""Seconds without any worker after which somebody should know."""


@dataclass
class RayWorkers:
    """So many actors, spread over the cluster, with an accelerator or a share of one if it has any.

    The pack must be installed on every machine, and they must share the folder that is written to.
    Raises `ValueError` where Ray is not installed or the cluster does not answer.
    """

    count: int
    address: str
    _ray: Any = field(default=None, init=False)
    _actors: list[Any] = field(default_factory=list[Any], init=False)
    _pending: set[Future[Outcome]] = field(default_factory=set[Future[Outcome]], init=False)
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
        ending = signal.getsignal(signal.SIGTERM)
        try:
            _check_address(self.address)
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
        finally:
            signal.signal(signal.SIGTERM, ending)  # Ray puts its own there
        self._ray = ray
        resources = ray.cluster_resources()
        processors, accelerators = (resources.get(kind, 0.0) for kind in ("CPU", "GPU"))
        threads = max(1, int(processors) // self.count)
        actor: Any = ray.remote(
            num_cpus=min(1.0, processors / self.count),
            num_gpus=min(1.0, accelerators / self.count),
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=-1,  # of the question whether it is there; a job says otherwise
        )(Worker)
        self._actors = [actor.remote(threads) for _ in range(self.count)]
        for one in self._actors:
            self._take_when_there(one)
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        wait(set(self._pending), timeout=30)
        self._ray.shutdown()

    def submit(self, job: Job) -> Future[Outcome]:
        actor = self._free_actor()
        once = actor.carry_out.options(max_task_retries=0)
        future: Future[Outcome] = once.remote(job).future()

        def free(done: Future[Outcome]) -> None:
            """Ray starts an actor that died again, here or elsewhere, or when there is room."""
            if done.exception():
                self._take_when_there(actor)
            else:
                self._idle.put(actor)
            self._pending.discard(done)

        self._pending.add(future)
        future.add_done_callback(free)
        return future

    def _free_actor(self) -> Any:
        try:
            return self._idle.get(timeout=TIMEOUT)
        except Empty:
            if not self._pending:
                sys.stderr.write("Waiting for the cluster to start a worker.\n")
            return self._idle.get()

    def _take_when_there(self, actor: Any) -> None:
        """Let an actor have jobs once it answers: its machine may be gone, or busy for long."""
        there: Future[Any] = actor.__ray_ready__.remote().future()
        there.add_done_callback(lambda _: self._idle.put(actor))


def _check_address(address: str) -> None:
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
