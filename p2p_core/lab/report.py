"""Reports that are written row by row, so that a run that is stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole

Row = Callable[[], Mapping[str, Any]]
"""Measures one row; what it returns joins the report."""

UNFINISHED = "unfinished.json"


def measured(
    folder: Path, plan: Mapping[str, Any], rows: Mapping[str, Row], wanted: Sequence[str] = ()
) -> dict[str, Any]:
    """The plan and every row's figures; `folder`/report.json holds them when all are there.

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
