"""`make demo`: every kind of edit in the real ComfyUI, with figures against the true answers.

Runs the demo workflow on a server for pairs of prompts and batches of seeds, and writes
output/demo/: contact sheets and report.json. Where there is no ComfyUI and none can be cloned,
diffusers takes the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..hosts.locate import HostNotFound, find_hosts
from ..hosts.server import PromptFailed, Server, ServerFailed
from . import exhibits
from .exhibits import Exhibit
from .pairs import ADDED, FADED, PAIRS
from .studio import Photographer, Studio

SEEDS = {"word_swap": 4, "refine": 4, "reweight": 2}
"""Pictures of each prompt."""


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--seeds", type=int, help="seeds a prompt, instead of several")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        with photographer() as (name, studio):
            shown = showcase(studio, options.seeds, options.seed)
    except (HostNotFound, ServerFailed, PromptFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"host": name}
    for name, exhibit in shown.items():
        report |= exhibit.figures
        if exhibit.sheet is not None:
            exhibit.sheet.save(options.out / f"{name}.png")
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.stdout.write("".join(f"Pictures: {options.out / name}.png\n" for name in shown))
    return 0


@contextmanager
def photographer() -> Iterator[tuple[str, Photographer]]:
    """Who takes the pictures, and the host's version or name.

    Raises `HostNotFound` where there is neither ComfyUI nor diffusers.
    """
    try:
        host = find_hosts(clone=True)[0]
    except HostNotFound as error:
        if find_spec("diffusers") is None:
            raise
        from .headless import HeadlessStudio

        sys.stdout.write(f"{error}\nUsing diffusers instead\n")
        yield "diffusers", HeadlessStudio()
        return
    sys.stdout.write(f"Starting ComfyUI {host.version} ({host.path})\n")
    with Server(host) as server:
        yield host.version, Studio(server)


def showcase(studio: Photographer, seeds: int | None, seed: int) -> dict[str, Exhibit]:
    """Every exhibit by the name of its sheet."""
    prompts = sum(len(pairs) for pairs in PAIRS.values())
    planned = {
        "word_swap": (prompts, exhibits.word_swaps(studio, seeds or SEEDS["word_swap"], seed)),
        "refine": (len(ADDED), exhibits.refinements(studio, seeds or SEEDS["refine"], seed)),
        "reweight": (len(FADED), exhibits.fader(studio, seeds or SEEDS["reweight"], seed)),
        "one_word": (3, exhibits.one_word(studio, seed)),
        "word_maps": (3, exhibits.word_maps(studio, seed)),
    }
    shown: dict[str, Exhibit] = {}
    with tqdm(total=sum(count for count, _ in planned.values()), unit="prompt") as bar:
        for name, (_, work) in planned.items():
            bar.set_description(name.replace("_", " "))
            for exhibit in work:
                shown[name] = exhibit
                bar.update()
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
