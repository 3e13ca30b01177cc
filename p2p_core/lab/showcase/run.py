"""`make demo`: every kind of edit in the real ComfyUI, with figures against the true answers.

Runs the demo workflow on a server for pairs of prompts and batches of seeds, and writes
output/demo/: contact sheets and report.json. Where there is no ComfyUI and none can be cloned,
diffusers takes the pictures.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...demo.joint_architecture import MODELS
from ...hosts.launch.locate import HostNotFound, find_hosts
from ...hosts.launch.server import PromptFailed, Server, ServerFailed
from ..report import JOINT, Row, measured
from . import blends, exhibits, windows
from .exhibits import Exhibit
from .modes import modes
from .pairs import ADDED, FADED, PAIRS
from .studio import Photographer, Studio

SWAPS = sum(len(pairs) for pairs in PAIRS.values())

MEASURED: dict[str, tuple[Callable[[Photographer, int, int], Iterator[Exhibit]], int, int]] = {
    "word_swap": (exhibits.word_swaps, 4, SWAPS),
    "refine": (exhibits.refinements, 4, len(ADDED)),
    "reweight": (exhibits.fader, 2, len(FADED)),
}
"""By the name of its sheet: the exhibit, the pictures of each prompt, and the prompts."""

ROWS = {
    **MEASURED,
    "one_word": (lambda studio, _, seed: exhibits.one_word(studio, seed), 1, 3),
    "word_maps": (lambda studio, _, seed: exhibits.word_maps(studio, seed), 1, 3),
    "windows": (windows.windows, 4, windows.PROMPTS),
    "blends": (blends.blends, 4, SWAPS),
}
"""What is shown of the first model."""

JOINT_ROWS = {**MEASURED, "modes": (modes, 1, SWAPS)}
"""What is shown of the second."""


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", help=f"rows to make, else all: {', '.join((*ROWS, JOINT))}"
    )
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--seeds", type=int, help="seeds a prompt, instead of several")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server, too
    try:
        with photographers() as (name, studios):
            plan = {"host": name, "seeds": options.seeds, "seed": options.seed}
            rows = showcase(studios, options.out, plan)
            report = measured(options.out, plan, rows, options.rows)
    except (HostNotFound, ServerFailed, PromptFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    for name in options.rows or list(rows):
        sheets = sorted((options.out / JOINT).glob("*.png"))
        made = sheets if name == JOINT else [options.out / f"{name}.png"]
        sys.stdout.write("".join(f"Pictures: {path}\n" for path in made if path.exists()))
    return 0


@contextmanager
def photographers() -> Iterator[tuple[str, Sequence[Photographer]]]:
    """Start whoever takes the pictures of each model, and say the host's version or name.

    Raises `HostNotFound` where there is neither ComfyUI nor diffusers.
    """
    try:
        host = find_hosts(clone=True)[0]
    except HostNotFound as error:
        if find_spec("diffusers") is None:
            raise
        from .headless import HeadlessStudio

        sys.stdout.write(f"{error}\nUsing diffusers instead\n")
        yield "diffusers", [HeadlessStudio()]
        return
    sys.stdout.write(f"Starting ComfyUI {host.version} ({host.path})\n")
    with Server(host) as server:
        yield host.version, [Studio(server, model) for model in MODELS]


def showcase(studios: Sequence[Photographer], out: Path, plan: Mapping[str, Any]) -> dict[str, Row]:
    """Make every exhibit by the name of its sheet, which it writes to `out`.

    Those of the second model are one row, with a report and sheets in a folder of its own.
    """
    rows = _rows(studios[0], ROWS, out, plan)
    for second in studios[1:]:
        rows[JOINT] = partial(_of_the_second, second, out / JOINT, plan)
    return rows


def _of_the_second(studio: Photographer, folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    report = measured(folder, plan, _rows(studio, JOINT_ROWS, folder, plan))
    return {JOINT: {name: value for name, value in report.items() if name not in plan}}


def _rows(
    studio: Photographer, wanted: Mapping[str, Any], out: Path, plan: Mapping[str, Any]
) -> dict[str, Row]:
    return {
        name: partial(
            _shown, name, exhibit(studio, plan["seeds"] or count, plan["seed"]), prompts, out
        )
        for name, (exhibit, count, prompts) in wanted.items()
    }


def _shown(name: str, work: Iterator[Exhibit], prompts: int, out: Path) -> dict[str, Any]:
    bar = tqdm(work, desc=name.replace("_", " "), total=prompts, unit="prompt")
    *_, exhibit = bar
    if exhibit.sheet is not None:
        out.mkdir(parents=True, exist_ok=True)
        exhibit.sheet.save(out / f"{name}.png")
    return exhibit.figures


if __name__ == "__main__":
    raise SystemExit(main())
