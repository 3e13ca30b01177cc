"""Running PIE-Bench: edits by workers, measures of their pictures, and the published table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...files import write_whole
from ...jobs.engine import Summary, run
from ...jobs.job import Job, model_from_anywhere
from ...jobs.photographs import read_photograph
from ...jobs.places import alone_in, check_folder
from ...jobs.pool import Pool
from ..metrics import psnr
from ..results import Results, means
from .cases import CLIP, DINO, KINDS, METHODS, Case, read_cases
from .published import COLUMNS, Measures, through_jpeg


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and where results go."""

    data: Path
    out: Path
    methods: Sequence[str]
    model: str = "demo"
    half: bool = False
    steps: int = 50
    cfg: float = 7.5
    limit: int | None = None
    """How many cases, from the first."""
    networks: tuple[str, str] = (DINO, CLIP)
    """By name or path, as `Measures.load` takes them."""

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"Expected methods, each once, got {', '.join(self.methods) or 'none'}."
            )
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(
                f"Expected methods out of {', '.join(METHODS)}, got {', '.join(unknown)}."
            )

    @cached_property
    def opened(self) -> tuple[Results, list[tuple[Case, Job]]]:
        """The results, and every case by every method as a job.

        Raises `ValueError` as `read_cases` does, for results of other settings or data, and naming
        every case whose place holds anything but its own pictures.
        """
        cases = read_cases(self.data.resolve())[: self.limit]
        mapping = hashlib.sha256((self.data / "mapping_file.json").read_bytes()).hexdigest()
        settings = {"steps": self.steps, "cfg": self.cfg}
        about = {"model": self.model, "half": self.half, **settings, "data": mapping[:16]}
        about |= {"networks": list(self.networks)}
        out, model = self.out.resolve(), model_from_anywhere(self.model)
        jobs: list[tuple[Case, Job]] = []
        wrong: list[str] = []
        for method in self.methods:
            if (out / method).is_symlink():
                raise ValueError(f"Expected a folder at {out / method}, got a link. Move it.")
            for case in cases:
                name = f"{method}/{case.key}"
                try:
                    edit = case.edit(method, **settings)
                    job = Job(name, edit, out / name, model, self.half)
                    if not job.is_done():
                        check_folder(job.folder)
                    jobs.append((case, job))
                except ValueError as error:
                    wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("\n".join([*wrong, f"{len(wrong)} bad cases; nothing was begun."]))
        return Results.open(self.out, about), jobs


def run_pie(
    plan: Plan, pool: Pool, measures: Measures, retries: int = 2, quiet: bool = False
) -> tuple[dict[str, Any], Summary]:
    """Edit and measure what is not yet; writes report.json, report.csv and report.md.

    Returns the report, and what became of the edits. Raises `ValueError` where another run writes
    to the same folder.
    """
    results, jobs = plan.opened
    with alone_in([plan.out]):
        summary = run([job for _, job in jobs], plan.out, pool, retries, quiet)
        _measure(results, jobs, measures, quiet)
        return _report(plan, results, jobs, measures, summary), summary


def _report(
    plan: Plan,
    results: Results,
    jobs: Sequence[tuple[Case, Job]],
    measures: Measures,
    summary: Summary,
) -> dict[str, Any]:
    wanted = {(case.key, _method(job)) for case, job in jobs}
    rows = [row for row in results.rows() if (row["case"], row["method"]) in wanted]
    report: dict[str, Any] = {
        "cases": len({row["case"] for row in rows}),
        "left_out": measures.left_out,
        "failed": summary.told()["failed"],
        "methods": {
            name: {"cases": len(some), **means(some)}
            for name in plan.methods
            if (some := [row for row in rows if row["method"] == name])
        },
    }
    report["kinds"] = results.tables(rows, plan.methods, list(KINDS.values()), COLUMNS)
    write_whole(plan.out / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _measure(
    results: Results, jobs: Sequence[tuple[Case, Job]], measures: Measures, quiet: bool
) -> None:
    """Write down every measure that can be taken and is not in the results."""
    taken = {(row["case"], row["method"]): row for row in results.rows()}
    names = sorted(measures.names)
    for case, job in tqdm(jobs, desc="measuring", unit="picture", disable=quiet):
        if not job.is_done():
            continue
        method, path = _method(job), job.picture
        made = path.stat().st_mtime_ns
        before = taken.get((case.key, method), {})
        done = set(before["taken"]) if before.get("made") == made else set[str]()
        if done.issuperset(names):
            continue
        given = read_photograph(case.image)
        source, edited = read_photograph(path.with_name("source.png")), read_photograph(path)
        picture, source, edited = (
            np.array(one.resize(given.size, Image.Resampling.LANCZOS))
            for one in (given, source, through_jpeg(edited))
        )
        region = case.region(given.height, given.width)
        found = measures.take(picture, edited, region, case.prompt, case.edited_prompt)
        found["reconstruction_psnr"] = psnr(picture, source)
        about = {"case": case.key, "method": method, "kind": case.kind, "made": made}
        results.write({**about, "taken": sorted(done | {*names}), **found})


def _method(job: Job) -> str:
    method, _, _ = job.name.partition("/")
    return method
