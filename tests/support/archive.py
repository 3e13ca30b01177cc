"""What the registry packs: the files that git tracks, without those of .comfyignore."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def archived() -> list[Path]:
    """The archive's files, relative to the pack's root."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files")
    ignored = _listed("--ignored", "--exclude-from=.comfyignore")
    return sorted(_listed() - ignored)


def _listed(*options: str) -> set[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "-z", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {Path(name) for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()}
