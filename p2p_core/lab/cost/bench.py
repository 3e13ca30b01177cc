"""`make bench`: what an edit costs, beside the stock KSampler.

Source and edit sampled together by the P2P KSampler, attention injected in every step and every
layer (the most there is to do), against the stock KSampler with a batch of two in the same process;
beside them the same swap by explicit attention maps, the cost of 1, 2, 4 and 8 edits, 1 edit = 1,
that of an edit of a known source, the first edit = 1, and how long the canvas waits for the words
and changes of a prompt, in milliseconds. Writes output/bench/report.json; stock =
1. Rows can be asked for by name; a run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import torch

from ...controller import Chain
from ..meter import compare, peak_memory
from ..report import Row, report_in_host, report_parser


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = report_parser("bench", __doc__)
    parser.add_argument(
        "--repeats", type=int, default=9, help="pairs of runs to take the median of"
    )
    return report_in_host(parser.parse_args(), prepare)


def prepare(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Row]]:
    """Make the plan and every comparison."""
    accelerator = torch.cuda.is_available()
    device = f"CPU, {torch.get_num_threads()} threads"
    plan = {
        "device": torch.cuda.get_device_name() if accelerator else device,
        "repeats": options.repeats,
    }
    return plan, rows(options.repeats, accelerator)


def rows(repeats: int, accelerator: bool) -> dict[str, Row]:
    """Make every comparison of the report, by its name."""
    from . import comfyui as bench
    from . import transformers
    from .comfyui import Bench
    from .frontend import frontend
    from .known import known_source

    bench.quiet()

    @lru_cache(maxsize=1)  # one model at a time
    def model(name: str) -> Bench:
        if name == "demo":
            return Bench.demo(steps=10)
        if name == "sd15":
            return Bench.of(bench.SD15, *((64, 10) if accelerator else (32, 2)))
        return Bench.of(bench.SDXL, *((128, 10) if accelerator else (64, 1)))

    def against_stock(name: str, of: str, chain: Chain | None, times: int = repeats) -> Row:
        def row() -> dict[str, Any]:
            at = model(of)
            ours = at.explicit() if chain is None else at.ours([chain])
            return {name: asdict(compare(name, ours, at.stock(2), times))}

        return row

    def edits() -> dict[str, Any]:
        at, times = model("sd15"), max(3, repeats // 3)
        one = at.ours([bench.SWAP])
        ratios = {
            str(n): compare(f"{n} edits", at.ours([bench.SWAP] * n), one, times).time_ratio
            for n in (1, 2, 4, 8)
        }
        return {"edits": ratios}

    compared = {
        "demo": ("demo", bench.SWAP, 5 * repeats),  # a run so short
        "sd15": ("sd15", bench.SWAP),
        "sd15_refine_reweight": ("sd15", bench.REFINE_REWEIGHT),
        "sd15_local_blend": ("sd15", bench.LOCAL_BLEND),
        "sd15_explicit_maps": ("sd15", None),
    }
    return {
        **{name: against_stock(name, *given) for name, given in compared.items()},
        "edits": edits,
        "known_source": partial(known_source, repeats),
        "frontend": partial(frontend, 5 * repeats),
        "inversion": lambda: {"inversion": inverting(max(3, repeats // 3))},
        "sdxl": against_stock("sdxl", "sdxl", bench.REFINE_REWEIGHT),
        **{name: partial(transformer, name, repeats) for name in transformers.BLOCKS},
    }


def transformer(name: str, repeats: int) -> dict[str, Any]:
    """Measure a transformer's blocks under an edit in each of its modes, beside the stock batch."""
    from .transformers import BLOCKS, TransformerBench

    blocks = TransformerBench.of(BLOCKS[name])
    stock = blocks.stock()
    ratios = {
        said: asdict(compare(f"{name}, {said}", blocks.ours(mode), stock, repeats))
        for said, mode in blocks.blocks.modes
    }
    return {name: ratios}


def inverting(repeats: int) -> dict[str, float]:
    """Measure null-text inversion at SD1.5's architecture, 512×512 pixels, half precision."""
    from .comfyui import SD15, Bench

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
