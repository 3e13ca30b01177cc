"""`make bench`: what an edit costs, beside the stock KSampler.

Source and edit sampled together by the P2P KSampler, attention injected in every step and every
layer (the most there is to do), against the stock KSampler with a batch of two in the same process;
beside them the same swap by explicit attention maps, and the cost of 1, 2, 4 and 8 edits, 1 edit =
1. Writes output/bench/report.json; stock = 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..hosts.in_process import enter_host
from ..hosts.locate import HostNotFound, find_hosts
from .meter import compare, peak_memory


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
        report |= measure(options.repeats, accelerator)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def measure(repeats: int, accelerator: bool) -> dict[str, Any]:
    """Every comparison of the report."""
    from ..hosts.comfyui import bench
    from ..hosts.comfyui.bench import Bench

    bench.quiet()
    report: dict[str, Any] = {}

    def against_stock(name: str, at: Bench, ours: Callable[[], Any], times: int = repeats) -> None:
        report[name] = asdict(compare(name, ours, at.stock(2), times))

    demo = Bench.demo(steps=10)
    against_stock("demo", demo, demo.ours([bench.SWAP]), 5 * repeats)  # a run so short
    sd15 = Bench.of(bench.SD15, *((64, 10) if accelerator else (32, 2)))
    against_stock("sd15", sd15, sd15.ours([bench.SWAP]))
    against_stock("sd15_refine_reweight", sd15, sd15.ours([bench.REFINE_REWEIGHT]))
    against_stock("sd15_local_blend", sd15, sd15.ours([bench.LOCAL_BLEND]))
    against_stock("sd15_explicit_maps", sd15, sd15.explicit())
    one = sd15.ours([bench.SWAP])
    report["edits"] = {
        str(n): compare(
            f"{n} edits", sd15.ours([bench.SWAP] * n), one, max(3, repeats // 3)
        ).time_ratio
        for n in (1, 2, 4, 8)
    }
    del sd15, one
    report["inversion"] = inverting(max(3, repeats // 3))
    sdxl = Bench.of(bench.SDXL, *((128, 10) if accelerator else (64, 1)))
    against_stock("sdxl", sdxl, sdxl.ours([bench.REFINE_REWEIGHT]))
    return report


def inverting(repeats: int) -> dict[str, float]:
    """Null-text inversion at SD1.5's architecture, 512×512 pixels, half precision."""
    from ..hosts.comfyui.bench import SD15, Bench

    sd15 = Bench.of(SD15, side=64, steps=1, half=True)
    lean, plain = (sd15.inversion(low_memory) for low_memory in (True, False))
    sampling, peaks = sd15.stock(1), dict[str, float]()
    for name, work in (("sampling", sampling), ("low", lean), ("plain", plain)):
        peaks[name] = peak_memory(work) / 2**30
    ratio = compare("low memory against plain inversion", lean, plain, repeats)
    return {
        "sampling_gib": peaks["sampling"],
        "low_memory_gib": peaks["low"],
        "low_memory_above_sampling_gib": peaks["low"] - peaks["sampling"],
        "plain_gib": peaks["plain"],
        "low_memory_time_ratio": ratio.time_ratio,
        "low_memory_memory_ratio": ratio.memory_ratio,
    }


if __name__ == "__main__":
    raise SystemExit(main())
