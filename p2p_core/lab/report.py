"""Reports that are written row by row, so that a run that is stopped goes on where it was."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..hosts.launch.in_process import enter_host
from ..hosts.launch.locate import HostNotFound, find_hosts

Row = Callable[[], Mapping[str, Any]]
"""Measures one row; what it returns joins the report."""

UNFINISHED = "unfinished.json"

JOINT = "mmdit"
"""The joint-attention demo model in a report: the key of its figures, and their folder."""

Prepare = Callable[[argparse.Namespace], tuple[Mapping[str, Any], Mapping[str, Row]]]
"""Options → the plan beside the host's version, and the rows; a ComfyUI can be imported by then."""


def report_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make the options of every command that writes a report to output/`name`: rows and --out."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help="rows to measure, else all")
    parser.add_argument("--out", type=Path, default=Path("output", name))
    return parser


def report_in_host(options: argparse.Namespace, prepare: Prepare) -> int:
    """Measure a command's rows with the newest ComfyUI in this process; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="p2p-report-") as base:
        try:
            host = find_hosts(clone=True)[0]
            enter_host(host, Path(base))
            plan, rows = prepare(options)
            report = measured(options.out, {"host": host.version, **plan}, rows, options.rows)
        except (HostNotFound, OSError, ValueError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def measured(
    folder: Path, plan: Mapping[str, Any], rows: Mapping[str, Row], wanted: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure rows; `folder`/report.json holds the plan and all figures when all are there.

    Rows that are `wanted` by name are measured anew and join the report that is there. Without
    names all are, but for those that a run of the same plan measured before it was stopped.

    Raises `ValueError` for a name that is no row, and for wanted rows beside a report of another
    plan.
    """
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        raise ValueError(f"Expected rows among {', '.join(rows)}, got {', '.join(unknown)}.")
    report, unfinished = folder / "report.json", folder / UNFINISHED
    if wanted:
        before = _read(report) or dict(plan)
        if any(before.get(key) != value for key, value in plan.items()):
            raise ValueError(
                f"Expected a report of {dict(plan)} in {folder}, got one of "
                f"{ {key: before.get(key) for key in plan} }. Measure all rows, or choose another "
                "folder."
            )
        for name in wanted:
            before |= rows[name]()
            _write(report, before)
        return before
    state = _read(unfinished)
    if state is None or state["plan"] != plan:
        state = {"plan": dict(plan), "done": [], "figures": {}}
    for name, row in rows.items():
        if name not in state["done"]:
            state["figures"] |= row()
            state["done"].append(name)
            _write(unfinished, state)
    whole = {**plan, **state["figures"]}
    _write(report, whole)
    unfinished.unlink(missing_ok=True)
    return whole


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=2) + "\n")
