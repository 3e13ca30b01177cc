"""`make lowest`: whether the lowest versions that pyproject.toml allows do.

Makes .venv-lowest with those of the headless extra, on top of the environment that runs this, whose
torch it takes; there makes one edit, edits one picture, and carries out one batch.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".venv-lowest"
BOUND = re.compile(r'(?P<name>[\w.-]+)>=(?P<version>[\w.]+); extra == "headless"')
PROMPT = "a red circle on the grass"


def lowest() -> list[str]:
    """The headless extra's lower bounds as requirements."""
    found = map(BOUND.fullmatch, requires("prompt-to-prompt") or ())
    return [f"{one['name']}=={one['version']}" for one in found if one]


def make_environment(wanted: list[str]) -> Path:
    """The folder of its programs."""
    venv.create(PLACE, clear=True, with_pip=True)
    programs = PLACE / ("Scripts" if sys.platform == "win32" else "bin")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = str(programs / "python")
    asked = subprocess.run([python, "-Ic", ask], capture_output=True, text=True, check=True)
    beside = Path(asked.stdout.strip()) / "beside.pth"
    beside.write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[headless]"]
    subprocess.run([*install, "--constraint", ROOT / ".ci/constraints.txt", *wanted], check=True)
    return programs


def main() -> int:
    """The command line; returns the exit status."""
    wanted = lowest()
    sys.stdout.write(f"{', '.join(wanted)}\n")
    sys.stdout.flush()
    p2p = str(make_environment(wanted) / "p2p")
    with tempfile.TemporaryDirectory() as made:

        def run(*arguments: str) -> None:
            subprocess.run([p2p, *arguments], check=True)

        about = ["--source", PROMPT, "--swap", "circle=star", "--steps", "4"]
        run("edit", *about, "--out", f"{made}/edit")
        run("benchmark", "sample", "--cases", "1", "--out", f"{made}/data")
        (image,) = map(str, Path(made).glob("data/**/*.jpg"))
        inversion = ["--image", image, "--inversion", "direct"]
        run("edit", *about, *inversion, "--out", f"{made}/photograph")
        manifest = Path(made, "edits.csv")
        manifest.write_text(f"caption,swap,steps\n{PROMPT},circle=star,4\n")
        run("batch", str(manifest), "--out", f"{made}/batch")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
