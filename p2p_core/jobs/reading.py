"""Text and JSON that somebody brings: bounded, and every fault in it one `ValueError`."""

from __future__ import annotations

import json
from pathlib import Path
from reprlib import Repr
from typing import Any

LARGEST = 256 * 2**20
"""Bytes of a file; larger ones are a mistake, or do not end."""

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def read_text(path: Path) -> str:
    """Read a file's text, which is UTF-8.

    Raises `ValueError` for what is no regular file of at most 256 MiB, and for one that cannot be
    read.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def parse_json(text: str) -> Any:
    """Read JSON; raises `ValueError` for none, a key twice and what is too deep."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has {shown(twice)} twice")
    return found


def shown(value: Any) -> str:
    """Write a value for a message, however long or deep it is."""
    return _SHORT.repr(value)
