"""`make bench`: what an edit costs, beside the stock KSampler.

The stock run makes as many images in the same process. Source and edit sampled together by the P2P
KSampler, attention injected in every step and every layer (the most there is to do), against the
stock KSampler with a batch of two. Writes output/bench/report.json; stock = 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..hosts.in_process import enter_host
from ..hosts.locate import HostNotFound, find_hosts
from .meter import compare


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("output/bench"))
    parser.add_argument(
        "--repeats", type=int, default=9, help="pairs of runs to take the median of"
    )
    options = parser.parse_args()
    try:
        host = find_hosts(clone=True)[0]
    except HostNotFound as error:
        sys.stderr.write(f"{error}\n")
        return 1
    accelerator = torch.cuda.is_available()
    report: dict[str, Any] = {
        "host": host.version,
        "device": torch.cuda.get_device_name()
        if accelerator
        else f"CPU, {torch.get_num_threads()} threads",
    }
    with tempfile.TemporaryDirectory(prefix="p2p-bench-") as base:
        enter_host(host, Path(base))
        from ..hosts.comfyui.bench import demo_work, sd15_work

        many = 5 * options.repeats  # of a run so short
        report["demo"] = asdict(compare("demo", *demo_work(steps=10), repeats=many))
        side, steps = (64, 10) if accelerator else (32, 2)
        report["sd15"] = asdict(compare("sd15", *sd15_work(side, steps), repeats=options.repeats))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
