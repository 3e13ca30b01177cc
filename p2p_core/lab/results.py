"""Results as they come, and the tables that they add up to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_whole
from ..jobs.files import append_line

PLAN = "plan.json"

Row = dict[str, Any]
"""A case's figures by one method: `case`, `method`, `kind`, and a float for each figure."""


@dataclass(frozen=True)
class Results:
    """Results as they come: a line per case and method, in a folder of its own.

    A case that is written down again by the same method is still one: what is said last counts, and
    takes the place of all before it if its picture was `made` anew. The plan is written with the
    first result.
    """

    folder: Path
    plan: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, plan: Mapping[str, Any]) -> Results:
        """Open the folder's results; raises `ValueError` for those of another plan."""
        path = folder / PLAN
        if path.exists():
            before = json.loads(path.read_text())
            if before != plan:
                raise ValueError(
                    f"Expected the plan of the results in {folder}, {before}, got {dict(plan)}. "
                    "Choose another folder, or remove it."
                )
        return cls(folder, plan)

    def rows(self) -> list[Row]:
        """Read all that was written, but for a line that was cut short."""
        path = self.folder / "results.jsonl"
        if not path.exists():
            return []
        rows: dict[tuple[Any, str], Row] = {}
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            key = (row["case"], row["method"])
            before = rows.get(key, {})
            rows[key] = {**before, **row} if before.get("made") == row.get("made") else row
        return list(rows.values())

    def write(self, row: Row) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PLAN).exists():
            write_whole(self.folder / PLAN, json.dumps(self.plan))
        append_line(self.folder / "results.jsonl", json.dumps(row))

    def tables(
        self,
        rows: Sequence[Row],
        methods: Sequence[str],
        kinds: Sequence[str],
        columns: Mapping[str, float],
    ) -> list[Row]:
        """Write means per method and kind of edit: report.csv, and report.md with these columns.

        What stands in a column of report.md is multiplied by the column's factor. Returns the
        means.
        """
        by_kind = [
            {"method": name, "kind": kind, "cases": len(some), **means(some)}
            for name in methods
            for kind in ("all", *kinds)
            if (some := [r for r in rows if r["method"] == name and kind in ("all", r["kind"])])
        ]
        fields = list({field: None for row in by_kind for field in row})
        table = io.StringIO()
        writer = csv.DictWriter(table, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_kind)
        write_whole(self.folder / "report.csv", table.getvalue())
        heads = [
            name if factor == 1 else f"{name} × {factor:g}" for name, factor in columns.items()
        ]
        lines = [
            "| " + " | ".join(["method", "kind", *heads]) + " |",
            "|" + " --- |" * (2 + len(heads)),
        ]
        for row in by_kind:
            numbers = [
                f"{row[name] * factor:.4g}" if name in row else ""
                for name, factor in columns.items()
            ]
            lines.append("| " + " | ".join([str(row["method"]), str(row["kind"]), *numbers]) + " |")
        write_whole(self.folder / "report.md", "\n".join(lines) + "\n")
        return by_kind


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Average every figure over the rows that have it."""
    names = {name: None for row in rows for name, one in row.items() if isinstance(one, float)}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
