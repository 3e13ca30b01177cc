"""Running PIE-Bench: edits by workers, measures of their pictures, and the published table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..demo.metrics import psnr
from ..jobs.engine import Staff, Summary, run
from ..jobs.files import read_parameters, read_photograph
from ..jobs.manifest import Job
from .book import Book, means
from .pie import KINDS, METHODS, Case, read_cases
from .published import COLUMNS, Measures


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

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(
                f"Expected methods out of {', '.join(METHODS)}, got {', '.join(unknown)}."
            )

    def open(self) -> tuple[Book, list[tuple[Case, Job]]]:
        """The book, and every case by every method as a job.

        Raises `ValueError` as `read_cases` does, and for a book of other settings or data.
        """
        cases = read_cases(self.data)[: self.limit]
        mapping = hashlib.sha256((self.data / "mapping_file.json").read_bytes()).hexdigest()
        settings = {"steps": self.steps, "cfg": self.cfg}
        about = {"model": self.model, "half": self.half, **settings, "data": mapping[:16]}
        jobs = [
            (case, Job(name, case.edit(method, **settings), self.out / name, self.model, self.half))
            for method in self.methods
            for case in cases
            for name in [f"{method}/{case.key}"]
        ]
        return Book.open(self.out, about), jobs


def run_pie(
    plan: Plan, staff: Staff, measures: Measures, retries: int = 2, quiet: bool = False
) -> tuple[dict[str, Any], Summary]:
    """Edit and measure what is not yet; writes report.json, report.csv and report.md.

    Returns the report, and what became of the edits.
    """
    book, jobs = plan.open()
    summary = run([job for _, job in jobs], plan.out, staff, retries, quiet)
    _measure(book, jobs, measures, quiet)
    rows = book.rows()
    report = {
        "cases": len({row["case"] for row in rows}),
        "left_out": measures.left_out,
        "failed": summary.told()["failed"],
        "methods": {
            name: {"cases": len(some), **means(some)}
            for name in plan.methods
            if (some := [row for row in rows if row["method"] == name])
        },
    }
    (plan.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    book.tables(plan.methods, list(KINDS.values()), COLUMNS)
    return report, summary


def _measure(book: Book, jobs: Sequence[tuple[Case, Job]], measures: Measures, quiet: bool) -> None:
    """Write down every measure that can be taken and is not in the book."""
    taken = {(row["case"], row["method"]): set(row["taken"]) for row in book.rows()}
    names = sorted(measures.names)
    for case, job in tqdm(jobs, desc="measuring", unit="picture", disable=quiet):
        method, _, _ = job.name.partition("/")
        path = job.folder / "edited.png"
        parameters = read_parameters(path)
        done = taken.get((case.key, method), set())
        if parameters.get("command") != job.command or done.issuperset(names):
            continue
        given = read_photograph(case.image)
        picture, source, edited = (
            np.array(one.resize(given.size, Image.Resampling.LANCZOS))
            for one in (given, read_photograph(path.with_name("source.png")), read_photograph(path))
        )
        region = case.region(given.height, given.width)
        found = measures.take(picture, edited, region, case.prompt, case.edited_prompt)
        found["reconstruction_psnr"] = psnr(picture, source)
        about = {"case": case.key, "method": method, "kind": case.kind}
        book.write({**about, "taken": sorted(done | {*names}), **found})
