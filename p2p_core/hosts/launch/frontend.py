"""Give each ComfyUI the web frontend, templates and help that its own requirements name.

One environment can hold one release of each, but hosts of different ages name different ones. What
is not installed as named goes into a folder of its own, which a server of that host gets on its
path before the environment.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .locate import Host, cache_folder

log = logging.getLogger("p2p.hosts")

PACKAGES = ("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs")
INSTALL_SECONDS = 600


def frontend_path(host: Host) -> Path | None:
    """Find the folder to put first on a server's path, and install it if it is missing.

    None where the environment already has what the host names, and, with a warning, where it
    cannot be installed: the host then serves what the environment has.
    """
    wanted = pins(host)
    if all(_installed(name) == number for name, number in wanted.items()):
        return None
    folder = cache_folder("frontends") / "-".join(wanted.values())
    if not folder.exists():
        requirements = [f"{name}=={number}" for name, number in wanted.items()]
        log.info("installing what ComfyUI %s shows: %s", host.version, ", ".join(requirements))
        try:
            _install(requirements, folder)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning(
                "ComfyUI %s is served with another release's frontend; its own could not be "
                "installed: %s",
                host.version,
                error,
            )
            return None
    return folder


def pins(host: Host) -> dict[str, str]:
    """Read the versions that the host's requirements name, by package."""
    lines = host.requirements.read_text(encoding="utf-8").splitlines()
    named = (re.match(r"\s*([\w-]+)\s*==\s*([\w.]+)", line) for line in lines)
    return {match[1]: match[2] for match in named if match and match[1] in PACKAGES}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(requirements: list[str], folder: Path) -> None:
    """Install packages to `folder`, which appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="installing-") as temporary:
        partial = Path(temporary) / "packages"
        subprocess.run(
            [
                *(sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install"),
                *("--quiet", "--target", str(partial), *requirements),
            ],
            check=True,
            timeout=INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # it does where another process was faster
                raise
