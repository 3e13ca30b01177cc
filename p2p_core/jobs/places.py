"""Where the pictures of cases go: names that every system can have, folders that hold no more.

Nothing is removed that is not a picture of ours: a folder goes once it is empty, never with what is
in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from ..files import PART
from .files import Pictures, read_parameters, write_pictures

LOCK = ".p2p.lock"
"""In every folder that a run writes to; it stays, for a lock that is removed can be held twice."""
HALF = ".p2p-"
"""Beginning of a folder whose pictures are not all there yet; `PART` is its end."""
PICTURES = ("edited.png", "source.png", "mask.png")
"""All that a case's folder may hold, the one that says what was made first."""
LONGEST_NAME = 200
"""Bytes of a folder's name; file systems allow little more."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I | re.S)
"""What Windows opens a device for, whatever follows a dot."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
"""Characters that some system's file names cannot have."""


def check_name(name: str) -> None:
    """Raises `ValueError` for a name that a folder cannot have on every system."""
    if (
        name.strip(" ") in ("", ".", "..")
        or name.endswith((" ", "."))
        or FORBIDDEN.search(name)
        or DEVICES.fullmatch(name)
        or name.lower().endswith((PART, ".jsonl", ".lock"))
        or len(name.encode()) > LONGEST_NAME
    ):
        raise ValueError(
            f"Expected a name for a folder on every system, got {name[:80]!r}. Write letters, "
            "digits, - and _."
        )


def same_name(name: str) -> str:
    """Fold a name to what is equal for names that are one on some system, as A and a."""
    decomposed = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFD", decomposed)


def check_folder(folder: Path) -> None:
    """Raises `ValueError` for a place that holds anything but pictures of ours, which give way."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(
            f"Expected a folder for pictures, got {folder}, which is a link or a file. Give the "
            "case another name, or move it."
        )
    if not folder.exists():
        return
    if foreign := sorted(one.name for one in folder.iterdir() if not _is_ours(one)):
        raise ValueError(
            f"Expected a folder for pictures, got {folder}, which holds something else: "
            f"{', '.join(map(repr, foreign[:3]))}. Give the case another name, or move that."
        )


def _is_ours(path: Path) -> bool:
    return path.name in PICTURES and not path.is_symlink() and bool(read_parameters(path))


def write_folder(folder: Path, pictures: Pictures, parameters: dict[str, object]) -> None:
    """Write all pictures in a folder that appears with them, in the place of ours.

    Raises `ValueError` for a folder that holds anything else, and `OSError` as the disk does.
    """
    assert {f"{name}.png" for name in pictures} <= {*PICTURES}
    check_folder(folder)
    half = folder.with_name(f"{HALF}{uuid4().hex}{PART}")
    try:
        write_pictures(half, pictures, parameters)
        check_folder(folder)
        _remove(folder)
        half.replace(folder)
    finally:
        _remove(half)


def sweep(folder: Path) -> None:
    """Remove what was left half-written in a folder; nobody may be writing there."""
    for half in [*folder.glob(f"{HALF}*{PART}")]:
        if half.is_dir() and not half.is_symlink():
            _remove(half)


def _remove(folder: Path) -> None:
    """Our pictures in a folder, and the folder if it holds no more."""
    if not folder.is_dir():
        return
    for name in PICTURES:
        for path in (folder / name, *folder.glob(f"{name}*{PART}")):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def alone_in(folders: Iterable[Path]) -> Iterator[None]:
    """While it lasts no other run writes to these folders, which are made where there are none.

    A run may ask again for what it has. Raises `ValueError` where another run has one of them.
    """
    with ExitStack() as held:
        for folder in sorted({folder.resolve() for folder in folders}):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(folder / LOCK, timeout=0, is_singleton=True))
            except Timeout as error:
                raise ValueError(
                    f"Expected {folder} to be this run's alone, but another is writing there. "
                    "Wait until it has ended, or choose another folder."
                ) from error
        yield
