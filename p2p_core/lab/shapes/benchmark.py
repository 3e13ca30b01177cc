"""Inversion methods on pictures that the model never made, against true answers.

Scenes are rendered, captioned, inverted and edited by words (`cases.py`), by every method
(`methods.py`), in ComfyUI with both demo models (`make fidelity`; the second's figures are under
`mmdit`) or in diffusers (`p2p benchmark shapes`). Results are written down one by one, so that a
run that was stopped goes on where it was; methods can be asked for by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...demo.architecture import WEIGHTS
from ...demo.joint_architecture import JOINT_WEIGHTS
from ...demo.scenes import render
from ...files import write_whole
from ...hosts.launch.in_process import enter_host
from ...hosts.launch.locate import HostNotFound, find_hosts
from ..meter import peak_memory
from ..metrics import psnr
from ..report import JOINT
from ..results import Results, means
from ..sheet import grid
from .cases import KINDS, Case, cases
from .measures import perceptual_distance, ssim, structure_distance
from .methods import METHODS, REFERENCE_CASES, Lab, Made


@dataclass(frozen=True)
class Plan:
    """What is to be measured; results of one plan do not mix with another's."""

    host: str
    steps: int = 20
    cfg: float = 3.0
    seed: int = 2022


def measure(
    lab: Lab, results: Results, count: int, seed: int, names: Sequence[str] = tuple(METHODS)
) -> None:
    """Run every method on every case that is not in the results yet."""
    done = {(row["case"], row["method"]) for row in results.rows()}
    wanted = [
        (n, case, name)
        for n, case in enumerate(cases(count, seed))
        for name, method in METHODS.items()
        if name in names
        and (n, name) not in done
        and not (method.reference and n >= REFERENCE_CASES)
    ]
    for n, case, name in tqdm(wanted, desc="cases × methods"):
        picture = render(case.scene)
        work = partial(lab.make, METHODS[name], picture, case)
        start = time.perf_counter()
        made = work()
        row = {"case": n, "kind": case.kind, "method": name}
        row |= {"seconds": time.perf_counter() - start}
        if n == 0 and not METHODS[name].reference:
            row["peak_memory_mib"] = peak_memory(work) / 2**20
        if n < len(KINDS):
            path = _picture(results, n, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made.edited).save(path)
        results.write(row | figures(lab, case, picture, made))


def figures(lab: Lab, case: Case, picture: np.ndarray, made: Made) -> dict[str, float]:
    """Measure one edited picture."""
    truth, kept = render(case.edited), case.kept
    trip = psnr(picture, lab.round_trip(picture))
    found = {
        "vae_round_trip_psnr": trip,
        "structure_distance": structure_distance(picture, made.edited),
        "edit_success": float(case.succeeds(made.edited)),
        "true_edit_psnr": psnr(truth, made.edited),
        "network_evaluations": float(made.evaluations),
        "optimisation_evaluations": float(made.optimisation_evaluations),
    }
    if made.reconstruction is not None:
        found["reconstruction_psnr"] = psnr(picture, made.reconstruction)
    if kept.any():
        error = np.square(picture[kept].astype(float) / 255 - made.edited[kept] / 255)
        look, other = lab.features(picture), lab.features(made.edited)
        found |= {
            "background_psnr": psnr(picture[kept], made.edited[kept]),
            "background_ssim": ssim(picture, made.edited, kept),
            "background_mse": float(error.mean()),
            "background_perceptual": perceptual_distance(look, other, kept),
        }
    return found


def report(results: Results, plan: Plan, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sum up results, and `more`; writes report.json, .csv and .md and a sheet of pictures."""
    rows = results.rows()
    methods = {
        name: means([row for row in rows if row["method"] == name])
        for name in METHODS
        if any(row["method"] == name for row in rows)
    }
    summary = {
        **asdict(plan),
        "cases": len({row["case"] for row in rows}),
        "vae_round_trip_psnr": means(rows)["vae_round_trip_psnr"],
        "null_text_against_reference": _against_reference(rows, plan.steps),
        "methods": methods,
        **(more or {}),
    }
    summary["kinds"] = results.tables(rows, list(methods), KINDS, COLUMNS)
    write_whole(results.folder / "report.json", json.dumps(summary, indent=2) + "\n")
    _sheet(results, plan)
    return summary


def _against_reference(rows: Sequence[dict[str, Any]], steps: int) -> dict[str, float]:
    """Our schedule of null-text optimisation beside the authors', on the cases that both had.

    The evaluations are compared with the most that theirs allows, and with what was left of them
    when it stopped early.
    """
    most = METHODS["null_text_reference"].options.schedule.inner_steps * steps
    theirs = [row for row in rows if row["method"] == "null_text_reference"]
    both = {row["case"] for row in theirs}
    if not both or not any(row["method"] == "null_text" for row in rows):
        return {}
    ours = means([row for row in rows if row["method"] == "null_text" and row["case"] in both])
    reference = means(theirs)
    ratio = {name: ours[name] / reference[name] for name in ("optimisation_evaluations", "seconds")}
    return {
        "cases": len(both),
        "evaluations_ratio": ours["optimisation_evaluations"] / most,
        "evaluations_ratio_after_early_stops": ratio["optimisation_evaluations"],
        "seconds_ratio": ratio["seconds"],
        "psnr_difference": ours["reconstruction_psnr"] - reference["reconstruction_psnr"],
    }


COLUMNS = {
    name: 1.0
    for name in (
        "reconstruction_psnr",
        "background_psnr",
        "background_ssim",
        "background_perceptual",
        "structure_distance",
        "edit_success",
        "true_edit_psnr",
        "network_evaluations",
    )
}
"""Of the table for readers; the others are in the CSV file."""


def _picture(results: Results, case: int, name: str) -> Path:
    return results.folder / "pictures" / f"{case:03}_{name}.png"


def _sheet(results: Results, plan: Plan) -> None:
    names = [name for name, method in METHODS.items() if not method.reference]
    images: list[np.ndarray] = []
    captions: list[str] = []
    for n, case in enumerate(cases(len(KINDS), plan.seed)):
        files = [_picture(results, n, name) for name in names]
        if not all(file.exists() for file in files):
            continue
        images += [render(case.scene), render(case.edited)]
        images += [np.asarray(Image.open(file, formats=["PNG"])) for file in files]
        captions += [case.prompt, case.edited_prompt, *[""] * len(files)]
    if images:
        heads = ("given", "true answer", *names)
        grid(images, captions, len(heads), heads).save(results.folder / "sheet.png")


def main() -> int:
    """Run `make fidelity`; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "methods", nargs="*", metavar="method", help=f"of {', '.join(METHODS)}; else all"
    )
    parser.add_argument("--out", type=Path, default=Path("output/fidelity"))
    parser.add_argument("--cases", type=int, default=56)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument(
        "--models", nargs="+", choices=("unet", JOINT), default=("unet", JOINT), help="else both"
    )
    options = parser.parse_args()
    names = options.methods or tuple(METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"expected methods of {', '.join(METHODS)}, got {', '.join(unknown)}")
    try:
        host = find_hosts(clone=True)[0]
        plan = Plan(f"ComfyUI {host.version}", options.steps, options.cfg, options.seed)
        first = Results.open(options.out, asdict(plan))
        second = Results.open(options.out / JOINT, asdict(plan))
    except (HostNotFound, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    wanted = {"unet": (WEIGHTS, first), JOINT: (JOINT_WEIGHTS, second)}
    wanted = {name: wanted[name] for name in wanted if name in options.models}
    with tempfile.TemporaryDirectory(prefix="p2p-fidelity-") as base:
        enter_host(host, Path(base))
        from .comfyui import ComfyLab

        for weights, results in wanted.values():
            lab = ComfyLab(plan.steps, plan.cfg, weights)
            measure(lab, results, options.cases, plan.seed, names)
    sys.stdout.write(json.dumps(reports(first, second, plan), indent=2) + "\n")
    return 0


def reports(first: Results, second: Results, plan: Plan) -> dict[str, Any]:
    """Sum up both models' results, the second's as one entry; writes both as `report` does."""
    joint = {JOINT: report(second, plan)} if second.rows() else {}
    return report(first, plan, joint) if first.rows() else joint


if __name__ == "__main__":
    raise SystemExit(main())
