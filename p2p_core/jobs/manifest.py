"""A manifest of edits: CSV or JSONL, a row for each.

Columns are the fields of `Edit`; `caption` may stand for `source`, and `name` says where a case's
pictures go. Several swaps, factors or words of a blend are a list, or in CSV stand in one cell,
with semicolons between them. `edits` may hold them all, as the command line has them
("--swap cat=dog --blend cat,dog") or as an object.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .edit import Edit
from .job import Job, model_from_anywhere
from .photographs import size_of_photograph
from .places import check_folder, check_name, same_name
from .reading import parse_json, read_text, shown

NAMES = {"caption": "source"}
COLUMNS = tuple(field.name for field in fields(Edit))
SEVERAL = tuple(field.name for field in fields(Edit) if field.default == ())


def read_manifest(path: Path, out: Path, model: str, half: bool) -> list[Job]:
    """Read the manifest's cases; images are looked for beside it.

    Raises `ValueError` naming the line of every row that cannot be carried out.
    """
    out, beside, model = out.resolve(), path.resolve().parent, model_from_anywhere(model)
    jobs: list[Job] = []
    wrong: list[str] = []
    taken: dict[str, tuple[str, int]] = {}
    for line, row in _rows(path):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            name, edit = _read(row, f"{line:04}", beside)
            other, its_line = taken.setdefault(same_name(name), (name, line))
            if its_line != line:
                raise ValueError(
                    f"Expected another name than {name!r}, which line {its_line} has already"
                    + (f", as {other!r}, the same on some systems." if other != name else ".")
                )
            job = Job(name, edit, out / name, model, half, f"line {line}")
            if not job.is_done():
                check_folder(job.folder)
            jobs.append(job)
        except ValueError as error:
            wrong.append(f"{path}, line {line}: {error}")
    if wrong:
        raise ValueError("\n".join([*wrong, f"{len(wrong)} bad rows; nothing was begun."]))
    if not jobs:
        raise ValueError(f"Expected edits in {path}, which has none. Write a row for each.")
    return jobs


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Lines with their values, or with what is wrong with them."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".ndjson"):
        raise ValueError(f"Expected a manifest that ends in .csv or .jsonl, got {path}.")
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"Expected a manifest, but {error}") from error
    if kind == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            heads = [head for head in reader.fieldnames or () if head]
            if len(set(heads)) < len(heads):
                yield 1, f"Expected columns of different names, got {', '.join(heads)}."
                return
            for row in reader:
                if any(row.get(None) or ()):  # pyright: ignore[reportArgumentType]
                    yield reader.line_num, "Expected no more cells than the first line has."
                elif any(row.values()):
                    yield reader.line_num, {k: v for k, v in row.items() if k and v}
        except csv.Error as error:
            yield reader.line_num, f"Expected comma-separated values, got what is not: {error}."
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(line)


def _object(line: str) -> dict[str, Any] | str:
    try:
        row = parse_json(line)
    except ValueError as error:
        return f"Expected a JSON object, got what is none: {error}."
    return row if isinstance(row, dict) else f"Expected a JSON object, got {shown(row)}."


def _read(row: dict[str, Any], name: str, beside: Path) -> tuple[str, Edit]:
    """A row's name and edit; raises `ValueError` for one that makes no sense."""
    row = _fields(row)
    name = row.pop("name", name)
    if not isinstance(name, str | int):
        raise ValueError(f"Expected a name for a folder, got {shown(name)}.")
    check_name(name := str(name))
    edits = row.pop("edits", {})
    if not isinstance(edits, str | dict):
        raise ValueError(f"Expected edits to be text or an object, got {shown(edits)}.")
    more = _fields(_options(edits) if isinstance(edits, str) else edits)
    if twice := sorted(row.keys() & more.keys()):
        raise ValueError(
            f"Expected each option once, got {', '.join(twice)} in edits and in a column of its "
            "own. Remove one."
        )
    row |= more
    if unknown := sorted(row.keys() - {*COLUMNS}):
        raise ValueError(
            f"Expected columns out of name, caption, edits, {', '.join(sorted(COLUMNS))}, got "
            f"{', '.join(unknown)}."
        )
    if "source" not in row:
        raise ValueError("Expected a caption, got none.")
    for key in ("image", "inversion_file"):
        if isinstance(row.get(key), str):
            row[key] = beside / row[key]
    edit = Edit(**row)
    edit.settings(1.0)
    if edit.image is not None:
        size_of_photograph(edit.image)
    if edit.inversion_file is not None and not edit.inversion_file.is_file():
        raise ValueError(f"Expected an inversion's file, got {edit.inversion_file}, which is none.")
    return name, edit


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """By the names that `Edit` has, of those that users write."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        name = key.strip().removeprefix("--").replace("-", "_")
        if value is None:
            continue
        name = NAMES.get(name, name)
        if name in found:
            raise ValueError(f"Expected {_called(name)} once, got it twice. Remove one.")
        found[name] = value
    return found


def _called(name: str) -> str:
    """By all the names that users have for it."""
    return " or ".join([name, *(other for other, own in NAMES.items() if own == name)])


def _options(text: str) -> dict[str, Any]:
    """`--swap cat=dog --blend cat` as fields and values."""
    found: dict[str, Any] = {}
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation that does not end
        words = [""]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(
            f"Expected edits such as '--swap cat=dog --blend cat,dog', got {shown(text)}."
        )
    for option, value in zip(words[::2], words[1::2], strict=True):
        (key,) = _fields({option: value})
        if key in SEVERAL:
            found[key] = [*found.get(key, []), value]
        elif key in found:
            raise ValueError(f"Expected {_called(key)} once in edits, got it twice. Remove one.")
        else:
            found[key] = value
    return found
