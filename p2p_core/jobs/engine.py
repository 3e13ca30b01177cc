"""Many edits by several workers: spread, tried again where they failed, and each done once.

A case's pictures appear in a folder of their own, all at once, with the command that makes them
inside; a case whose folder says its command is done. So a run that was stopped or that lost workers
goes on where it was, and no case is done twice: a folder is one run's at a time.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .files import append_line
from .job import Job
from .places import alone_in, sweep
from .pool import Outcome, Pool

LOG = "log.jsonl"


@dataclass
class Summary:
    """What became of the cases."""

    done: list[Job] = field(default_factory=list[Job])
    before: list[Job] = field(default_factory=list[Job])
    """Those that an earlier run did."""
    failed: list[tuple[Job, str]] = field(default_factory=list[tuple[Job, str]])
    retries: int = 0
    seconds: float = 0.0
    working_seconds: float = 0.0
    """Of all workers together, on cases."""

    def complaints(self) -> list[str]:
        return [
            f"{job.name} ({job.place}): {error}" if job.place else f"{job.name}: {error}"
            for job, error in self.failed
        ]

    def told(self) -> dict[str, Any]:
        """Write it as JSON has it."""
        counts = {"done": len(self.done), "done_before": len(self.before)}
        failed = [
            {"name": job.name, "place": job.place, "error": error} for job, error in self.failed
        ]
        times = {"seconds": self.seconds, "working_seconds": self.working_seconds}
        return {**counts, "failed": failed, "retries": self.retries, **times}

    def __str__(self) -> str:
        return (
            f"{len(self.done)} done, {len(self.before)} done before, {len(self.failed)} failed, "
            f"{self.retries} retries"
        )


def run(
    jobs: Sequence[Job], out: Path, pool: Pool, retries: int = 2, quiet: bool = False
) -> Summary:
    """Carry out the jobs that are not done yet; `out` gets log.jsonl, a line for each attempt.

    A case that fails is tried again so many times, unless its words or files are wrong. Raises
    `OSError` where nobody could do anything: no model, no space left; `ValueError` where another
    run writes to the same folders. Interrupted, it stops the workers and leaves what is done.
    """
    with _claimed({out, *(job.folder.parent for job in jobs)}):
        return _run(jobs, out, pool, retries, quiet)


def _run(jobs: Sequence[Job], out: Path, pool: Pool, retries: int, quiet: bool) -> Summary:
    summary = Summary()
    waiting: deque[tuple[Job, int]] = deque()
    for job in jobs:
        if job.is_done():
            summary.before.append(job)
        else:
            waiting.append((job, 0))
    if not waiting:
        return summary
    start = time.perf_counter()
    running: dict[Future[Outcome], tuple[Job, int]] = {}
    with tqdm(total=len(waiting), unit="case", disable=quiet) as bar, pool as workers:
        while waiting or running:
            while waiting and len(running) < workers.count:
                job, tried = waiting.popleft()
                running[workers.submit(job)] = (job, tried)
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                job, tried = running.pop(future)
                outcome = _outcome(future)
                attempt = {"name": job.name, "attempt": tried + 1, **asdict(outcome)}
                append_line(out / LOG, json.dumps(attempt))
                summary.working_seconds += outcome.seconds
                if outcome.error is None or job.is_done():  # a worker may die with its work done
                    summary.done.append(job)
                elif outcome.fatal:
                    raise OSError(outcome.error)
                elif outcome.permanent or tried >= retries:
                    summary.failed.append((job, outcome.error))
                else:
                    summary.retries += 1
                    waiting.append((job, tried + 1))
                    continue
                bar.update()
    summary.seconds = time.perf_counter() - start
    return summary


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # whatever a library says of a worker that is no more
        why, *_ = f"{type(error).__name__} {error}".strip().splitlines()
        return Outcome(time.time(), 0.0, 0, f"Its worker died: {why}")


@contextmanager
def _claimed(folders: Collection[Path]) -> Iterator[None]:
    """These folders are this run's, with nothing half-written in them before or after."""
    with alone_in(folders):
        try:
            _sweep(folders)
            yield
        finally:
            _sweep(folders)


def _sweep(folders: Collection[Path]) -> None:
    for folder in folders:
        sweep(folder)
