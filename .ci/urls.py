"""The project's addresses: all follow from `Repository` in pyproject.toml.

python .ci/urls.py           what does not follow from it, as `make lint` checks
python .ci/urls.py --write   put it right
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = re.compile(r'^Repository = "(https://github\.com/([^/\s"]+)/[^/\s"]+)"$', re.MULTILINE)
PLACEHOLDER = "YOUR_NAME"
"""In the owner's place: no account on GitHub can have this name."""


def derived(repository: str) -> dict[tuple[str, str], str]:
    """Addresses by file and by the text that stands before them on their line."""
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    return {
        ("pyproject.toml", 'Documentation = "'): f"{repository}#readme",
        ("pyproject.toml", 'Issues = "'): f"{repository}/issues",
        ("pyproject.toml", 'Icon = "'): f"{raw}/main/web/icon.png",
        ("pyproject.toml", 'Banner = "'): f"{raw}/main/web/banner.png",
        ("README.md", "git clone "): repository,
    }


def read_owner(root: Path) -> tuple[str, str]:
    """The repository and its owner; raises `ValueError` where there is none."""
    match = REPOSITORY.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    if match is None:
        raise ValueError('Expected Repository = "https://github.com/owner/name" in pyproject.toml.')
    return match[1], match[2]


def wrong(root: Path, write: bool = False) -> Iterator[str]:
    """What does not follow from the repository, a line each; with `write`, it does afterwards."""
    repository, _ = read_owner(root)
    for (file, before), address in derived(repository).items():
        text = (root / file).read_text(encoding="utf-8")
        pattern = re.compile(rf'^({re.escape(before)})([^\s"]*)', re.MULTILINE)
        found = [match[2] for match in pattern.finditer(text)]
        if found != [address]:
            yield f"{file}: expected {address} after {before!r}, got {', '.join(found) or 'none'}"
        if write and found != [address]:
            put = pattern.sub(lambda match, to=address: match[1] + to, text)
            (root / file).write_text(put, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    write = "--write" in arguments
    lines = [*wrong(ROOT, write)]
    if read_owner(ROOT)[1] == PLACEHOLDER:
        lines.append(
            "warning: pyproject.toml names no repository yet. Fill in Repository and PublisherId, "
            "then run: python .ci/urls.py --write"
        )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(not write and any(not line.startswith("warning") for line in lines))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
