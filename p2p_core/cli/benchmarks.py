"""`p2p benchmark`: measure edits, and what they cost."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import Field

from ..jobs.edit import Sampling, Steps
from ..lab.pie.cases import CLIP, DINO, METHODS
from . import options as given
from .needs import interruptible, require_diffusers

benchmarks = App(name="benchmark", help="Measure edits, and what they cost.")


@benchmarks.command
def shapes(
    *,
    out: given.Out,
    cases: Annotated[int, Field(ge=1), Parameter(help="How many; 105 is 15 of each kind.")] = 105,
    steps: Steps = 20,
    cfg: Annotated[float, Parameter(help="Guidance.")] = 3.0,
    seed: Annotated[int, Field(ge=0), Parameter(help="Of the cases.")] = 2022,
    as_json: given.AsJson = False,
) -> None:
    """Invert and edit rendered scenes with the demo model, by every method, against true answers.

    A run that was stopped goes on where it was.
    """
    require_diffusers()
    from ..lab.results import Results
    from ..lab.shapes.benchmark import Plan, measure, report
    from ..lab.shapes.diffusers import DiffusersLab

    Sampling(steps=steps, cfg=cfg, seed=seed)  # raises for what is none
    plan = Plan("diffusers", steps, cfg, seed)
    results = Results.open(out, asdict(plan))
    with interruptible():
        measure(DiffusersLab(steps, cfg), results, cases, seed)
    summary = report(results, plan)
    text = json.dumps(summary) if as_json else (out / "report.md").read_text().rstrip()
    sys.stdout.write(text + "\n")


@benchmarks.command
def pie(
    *,
    data: Annotated[Path, Parameter(help="mapping_file.json and annotation_images.")],
    out: given.Out,
    methods: Annotated[
        str, Parameter(help=f"Of {', '.join(METHODS)}, which has steps and cfg of its own.")
    ] = "ddim,null-text,negative-prompt,direct",
    model: given.ModelPath = "demo",
    half: given.Half = False,
    steps: Steps = 50,
    cfg: Annotated[float, Parameter(help="Guidance.")] = 7.5,
    cases: Annotated[int | None, Field(ge=1), Parameter(help="How many; else all.")] = None,
    dino: Annotated[str, Parameter(help="DINO ViT-B/8 of timm, a name or a file.")] = DINO,
    clip: Annotated[str, Parameter(help="CLIP ViT-L/14 of open_clip, a name or a file.")] = CLIP,
    workers: given.Workers = 1,
    ray: given.Cluster = None,
    retries: given.Retries = 2,
    as_json: given.AsJson = False,
) -> None:
    """PIE-Bench's table as published, of data that you have.

    A run that was stopped goes on where it was.
    """
    require_diffusers()
    from ..jobs.workers import workers_of
    from ..lab.pie.published import Measures
    from ..lab.pie.run import Plan, run_pie

    names = [name.strip() for name in methods.split(",") if name.strip()]
    plan = Plan(data, out, names, model, half, steps, cfg, cases, (dino, clip))
    _ = plan.opened  # wrong data is refused before networks are loaded
    measures = Measures.load(dino, clip)
    for name, why in measures.left_out.items():
        sys.stderr.write(f"{name} is left out: {why}\n")
    with interruptible():
        report, summary = run_pie(plan, workers_of(workers, ray), measures, retries, as_json)
    text = json.dumps(report) if as_json else (out / "report.md").read_text().rstrip()
    sys.stdout.write(text + "\n")
    if summary.failed:
        raise ValueError("\n".join(summary.complaints()))


@benchmarks.command
def sample(
    *,
    out: given.Out,
    cases: Annotated[int, Field(ge=1), Parameter(help="How many.")] = 14,
    seed: Annotated[int, Field(ge=0), Parameter(help="Of the cases.")] = 2022,
) -> None:
    """Render a small data set in PIE-Bench's layout, to try `p2p benchmark pie` on."""
    from ..lab.pie.sample import write_sample

    write_sample(out, cases, seed)
    sys.stdout.write(f"{cases} cases: {out}\n")


@benchmarks.command
def peers(
    *,
    pipeline: Annotated[Path | None, Parameter(help="diffusers' pipeline_prompt2prompt.py.")] = (
        None
    ),
    models: Annotated[str, Parameter(help="Of demo and sd15, SD1.5's architecture.")] = (
        "demo,sd15"
    ),
    pixels: Annotated[int | None, Field(ge=128), Parameter(help="Side of SD1.5's images.")] = None,
    repeats: Annotated[
        int, Field(ge=1), Parameter(help="Pairs of runs to take the median of.")
    ] = 9,
) -> None:
    """Time and memory of a word swap, beside the same by explicit attention maps.

    That is how diffusers' community pipeline makes it; with its file at hand, it is measured too.
    """
    require_diffusers()
    from ..lab.peers.bench import Bench, beside_peers

    makers = {
        "demo": Bench.demo,
        "sd15": lambda: Bench.sd15(None if pixels is None else pixels // 8),
    }
    names = [name.strip() for name in models.split(",")]
    if not {*names} <= makers.keys():
        raise ValueError(f"Expected models out of {', '.join(makers)}, got {models!r}.")
    report = {name: beside_peers(makers[name](), repeats, pipeline) for name in names}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


@benchmarks.command
def workers(
    *,
    count: Annotated[int, Field(ge=2), Parameter(name="--workers", help="How many.")] = 2,
    cases: Annotated[int, Field(ge=2), Parameter(help="Edits a worker.")] = 20,
    ray: given.Cluster = None,
) -> None:
    """Throughput of several workers beside one, and what the engine costs a case."""
    require_diffusers()
    from ..lab.cost.workers import throughput

    with tempfile.TemporaryDirectory(prefix="p2p-workers-") as folder:
        report = throughput(Path(folder), count, cases * count, ray)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
