"""Find the ComfyUI installations of this machine; imports none of them.

    python -m p2p_core.hosts.launch.locate                  # a line each: version, path
    python -m p2p_core.hosts.launch.locate --requirements   # their requirements files
    python -m p2p_core.hosts.launch.locate --clone          # and get one first if there is none

It needs nothing but Python itself, so that it can say what to install.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("p2p.hosts")

ROOT = Path(__file__).parents[3]
"""The pack's folder, or whatever holds `p2p_core` where it is installed alone."""

CLONE_URL = "https://github.com/comfyanonymous/ComfyUI"
CLONE_TAG = "v0.33.0"
CLONE_SECONDS = 600


class HostNotFound(RuntimeError):
    """There is no ComfyUI on this machine; the message says how to get one."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI: its resolved folder and its version, as `0.33.0`."""

    path: Path
    version: str

    @property
    def requirements(self) -> Path:
        """The file of packages that it needs, for `pip install -r`."""
        return self.path / "requirements.txt"


def find_hosts(*, clone: bool = False) -> list[Host]:
    """Find the ComfyUI installations to be had, each once, newest version first.

    `$COMFYUI_PATH`, where it is set, says which (several as in `$PATH`). Else they are the ComfyUI
    whose `custom_nodes` holds this pack and every `~/comfy/ComfyUI*`; else the pack's own copy in
    `.host/ComfyUI`, which `clone` makes with git if it is missing.

    Raises `ValueError` if `$COMFYUI_PATH` names something else, `HostNotFound` if there is none.
    """
    if named := os.environ.get("COMFYUI_PATH"):
        return _distinct([_named(part) for part in named.split(os.pathsep) if part])
    own = ROOT / ".host" / "ComfyUI"
    hosts = _distinct([host for path in _usual_places() if (host := read_host(path))])
    if not hosts and clone and not own.exists():
        _clone(own)
    if not hosts and (host := read_host(own)):
        hosts = [host]
    if not hosts:
        raise HostNotFound(
            "no ComfyUI found: set COMFYUI_PATH to one, or get one with "
            f"git clone --depth 1 --branch {CLONE_TAG} {CLONE_URL} ~/comfy/ComfyUI"
        )
    return hosts


def read_host(path: Path) -> Host | None:
    """Read which ComfyUI is in the folder `path`; None if there is none."""
    try:
        text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"""^__version__\s*=\s*["'](.+?)["']""", text, re.MULTILINE)
    if version is None or not (path / "main.py").is_file():
        return None
    return Host(path.resolve(), version.group(1))


def cache_folder(name: str) -> Path:
    """Find where to keep what hosts need and must not have in their own folders."""
    if (ROOT / "pyproject.toml").is_file():
        return ROOT.resolve() / "output" / name
    return Path(tempfile.gettempdir()) / f"p2p-{name}"


def _named(part: str) -> Host:
    host = read_host(Path(part).expanduser())
    if host is None:
        raise ValueError(
            "COMFYUI_PATH: expected the folder of a ComfyUI (with main.py and "
            f"comfyui_version.py), got {part!r}: correct it or unset it"
        )
    return host


def _usual_places() -> Iterator[Path]:
    for root in (ROOT, ROOT.resolve()):
        if root.parent.name == "custom_nodes":
            yield root.parent.parent
    yield from Path.home().glob("comfy/ComfyUI*")


def _distinct(hosts: Sequence[Host]) -> list[Host]:
    def newest_first(host: Host) -> tuple[int, ...]:
        return tuple(-int(number) for number in re.findall(r"\d+", host.version))

    return sorted(dict.fromkeys(hosts), key=newest_first)


def _clone(target: Path) -> None:
    """Clone the pinned ComfyUI to `target`, which appears whole or not at all."""
    if not (ROOT / "pyproject.toml").is_file():
        raise HostNotFound("no ComfyUI found: set COMFYUI_PATH to one")
    target.parent.mkdir(exist_ok=True)
    log.info("no ComfyUI found; cloning %s %s to %s", CLONE_URL, CLONE_TAG, target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="cloning-") as folder:
        partial = Path(folder) / target.name
        command = ["git", "clone", "--quiet", "--depth=1", f"--branch={CLONE_TAG}", CLONE_URL]
        try:
            subprocess.run(
                [*command, str(partial)],
                check=True,
                timeout=CLONE_SECONDS,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise HostNotFound(
                f"no ComfyUI found, and cloning {CLONE_URL} failed: set COMFYUI_PATH to one"
            ) from error
        if target.exists():  # another process was faster
            shutil.rmtree(partial)
        else:
            partial.rename(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Find the ComfyUI installations of this machine.")
    parser.add_argument("--clone", action="store_true", help="get one with git if there is none")
    parser.add_argument("--requirements", action="store_true", help="print requirements files")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        hosts = find_hosts(clone=options.clone)
    except (HostNotFound, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for host in hosts:
        line = f"{host.requirements}" if options.requirements else f"{host.version}\t{host.path}"
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
