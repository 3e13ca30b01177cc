"""Results as they come, and the tables that they add up to."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
"""A case's figures by one method: `case`, `method`, `kind`, and a float for each figure."""


@dataclass(frozen=True)
class Book:
    """Results as they come: a line for each case and method, in a folder of its own.

    A case that is written down again by the same method is still one: what is said last counts.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, plan: Mapping[str, Any]) -> Book:
        """The folder's book; raises `ValueError` for one of another plan."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "plan.json"
        if path.exists():
            before = json.loads(path.read_text())
            if before != plan:
                raise ValueError(
                    f"Expected the plan of the results in {folder}, {before}, got {dict(plan)}. "
                    "Choose another folder, or remove it."
                )
        path.write_text(json.dumps(plan))
        return cls(folder)

    def rows(self) -> list[Row]:
        """All that was written; a line that was cut short is dropped from the file."""
        path = self.folder / "results.jsonl"
        if not path.exists():
            return []
        rows: dict[tuple[Any, str], Row] = {}
        whole = ""
        for line in path.read_text().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            key = (row["case"], row["method"])
            rows[key] = rows.get(key, {}) | row
            whole += line if line.endswith("\n") else line + "\n"
        path.write_text(whole)
        return list(rows.values())

    def write(self, row: Row) -> None:
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def tables(
        self,
        methods: Sequence[str],
        kinds: Sequence[str],
        columns: Mapping[str, float],
    ) -> None:
        """Means for each method and kind of edit: report.csv, and report.md with these columns.

        What stands in a column of report.md is multiplied by the column's factor.
        """
        rows = self.rows()
        by_kind = [
            {"method": name, "kind": kind, "cases": len(some), **means(some)}
            for name in methods
            for kind in ("all", *kinds)
            if (some := [r for r in rows if r["method"] == name and kind in ("all", r["kind"])])
        ]
        fields = list({field: None for row in by_kind for field in row})
        with (self.folder / "report.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(by_kind)
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
        (self.folder / "report.md").write_text("\n".join(lines) + "\n")


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Of every figure, over the rows that have it."""
    names = {name: None for row in rows for name, one in row.items() if isinstance(one, float)}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
