"""What several workers gain, and what the engine costs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ...jobs.edit import Edit
from ...jobs.engine import LOG, run
from ...jobs.job import Job
from ...jobs.workers import workers_of


def throughput(folder: Path, workers: int, cases: int, ray: str | None = None) -> dict[str, Any]:
    """Time the demo model's edits by one worker, then by several of the same kind, from nothing.

    Seconds count from when the first worker begins to when the last ends, its model being loaded.
    What the engine costs is the time between a worker's cases.
    """
    figures = {count: _timed(folder / f"{count}", count, cases, ray) for count in (1, workers)}
    one, many = figures[1], figures[workers]
    return {
        "cases": cases,
        "workers": workers,
        "seconds": many["seconds"],
        "seconds_of_one_worker": one["seconds"],
        "speed": one["seconds"] / many["seconds"],
        "engine_seconds_per_case": many["engine_seconds_per_case"],
        "seconds_per_case": many["seconds_per_case"],
    }


def _timed(folder: Path, count: int, cases: int, ray: str | None) -> dict[str, float]:
    edits = [
        Edit(source="a red circle on the grass", swap=(("circle", "star"),), steps=20, seed=seed)
        for seed in range(cases)
    ]
    jobs = [Job(f"{n:04}", edit, folder / f"{n:04}") for n, edit in enumerate(edits)]
    summary = run(jobs, folder, workers_of(count, ray))
    if summary.failed or summary.retries:
        raise RuntimeError(f"Expected every case to be done at once, got {summary}.")
    log = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    by_worker = [
        sorted((one["begun"], one["begun"] + one["seconds"]) for one in log if one["worker"] == pid)
        for pid in {one["worker"] for one in log}
    ]
    gaps = [after[0] - before[1] for worker in by_worker for before, after in pairwise(worker)]
    begun = min(worker[0][0] for worker in by_worker)
    return {
        "seconds": max(worker[-1][1] for worker in by_worker) - begun,
        "engine_seconds_per_case": median(gaps),
        "seconds_per_case": median(one["seconds"] for one in log),
    }
