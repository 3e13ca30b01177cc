"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

PART = ".part"
"""Ending of what is not whole yet."""


@contextmanager
def appearing(path: Path) -> Generator[Path]:
    """Give a name to write a file under, which takes `path`'s place when it is whole.

    The name is nobody else's, so that several may write to one path at once: each reader finds what
    one of them wrote. What stood there before stays until then, and for good if writing fails.
    Raises `OSError` as the disk does.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}{PART}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text or bytes into a file that appears whole or not at all; raises `OSError`."""
    with appearing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
