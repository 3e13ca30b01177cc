"""`p2p`: edit images by their prompts from the shell, with the diffusers host.

Every error is one line on standard error and an exit status of 1; wrong usage is 2, as shells are
used to. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..inversion.methods import Options
from ..inversion.null_text import REFERENCE
from ..inversion.null_text import Schedule as NullTexts
from ..jobs.edit import Edit, Sampling
from ..jobs.files import write_pictures
from . import options as given
from .benchmarks import benchmarks
from .needs import interruptible, require_diffusers

if TYPE_CHECKING:
    from ..jobs.studio import Studio

app = typer.Typer(
    help="Edit images by editing their prompts.", no_args_is_help=True, add_completion=False
)
app.add_typer(benchmarks, name="benchmark")


@app.command()
def edit(
    source: given.Source,
    out: given.Out,
    swap: given.Swap = None,
    refine: given.RefineTo = None,
    inject_swapped: given.Inject = True,
    reweight: given.Factors = None,
    blend: given.Blend = None,
    image: given.Picture = None,
    inversion: given.InversionName = "null-text",
    inversion_file: given.Kept = None,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    steps: given.Steps = 50,
    cfg: given.Cfg = None,
    seed: given.Seed = 0,
    sampler: given.Sampler = "euler",
    scheduler: given.Scheduler = "normal",
    negative: given.Negative = "",
    denoise: given.Denoise = 1.0,
    size: given.Size = None,
    inner_steps: given.Inner = 4,
    learning_rate: given.Rate = 3e-2,
    authors_schedule: given.Authors = False,
    cross_replace_end: given.CrossEnd = 0.8,
    self_replace_end: given.SelfEnd = 0.4,
    self_replace_reach: given.SelfReach = None,
    as_json: given.AsJson = False,
) -> None:
    """Make an image and its edit, or edit a photograph."""
    wanted = Edit(
        source=source,
        swap=tuple(swap or ()),
        refine=refine,
        inject_swapped=inject_swapped,
        reweight=tuple(reweight or ()),
        blend=tuple(blend or ()),
        image=None if image is None else str(image),
        inversion=inversion,
        inversion_file=None if inversion_file is None else str(inversion_file),
        steps=steps,
        cfg=cfg,
        seed=seed,
        sampler=sampler,
        scheduler=scheduler,
        negative=negative,
        denoise=denoise,
        size=size,
        inner_steps=inner_steps,
        learning_rate=learning_rate,
        authors_schedule=authors_schedule,
        cross_replace_end=cross_replace_end,
        self_replace_end=self_replace_end,
        self_replace_reach=self_replace_reach,
    )
    pictures, parameters = _studio(model, half, as_json).edit(wanted)
    _tell(write_pictures(out, pictures, parameters), parameters, as_json)


@app.command()
def maps(
    source: given.Source,
    out: given.Out,
    words: Annotated[str, typer.Option(help="Words to look at; all where there are none.")] = "",
    side: Annotated[float | None, typer.Option(help="Of the layers; of the latent's side.")] = None,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    steps: given.Steps = 50,
    cfg: given.Cfg = None,
    seed: given.Seed = 0,
    sampler: given.Sampler = "euler",
    scheduler: given.Scheduler = "normal",
    negative: given.Negative = "",
    size: given.Size = None,
    as_json: given.AsJson = False,
) -> None:
    """Show where an image looks at the words of its prompt."""
    how = Sampling(
        steps=steps,
        cfg=cfg,
        seed=seed,
        sampler=sampler,
        scheduler=scheduler,
        negative=negative,
        size=size,
    )
    pictures, parameters = _studio(model, half, as_json).maps(source, words, side, how)
    _tell(write_pictures(out, pictures, parameters), parameters, as_json)


@app.command()
def invert(
    image: Annotated[Path, typer.Option(help="A photograph.")],
    source: given.Source,
    out: given.Out,
    inversion: given.InversionName = "null-text",
    model: given.ModelPath = "demo",
    half: given.Half = False,
    steps: given.Steps = 50,
    cfg: given.Cfg = None,
    seed: given.Seed = 0,
    scheduler: given.Scheduler = "normal",
    negative: given.Negative = "",
    denoise: given.Denoise = 1.0,
    size: given.Size = None,
    inner_steps: given.Inner = 4,
    learning_rate: given.Rate = 3e-2,
    authors_schedule: given.Authors = False,
    as_json: given.AsJson = False,
) -> None:
    """Find how the model would have made a photograph, and keep it for `p2p edit`."""
    how = Sampling(
        steps=steps,
        cfg=cfg,
        seed=seed,
        scheduler=scheduler,
        negative=negative,
        denoise=denoise,
        size=size,
    )
    schedule = REFERENCE if authors_schedule else NullTexts(inner_steps, learning_rate)
    options = Options(inversion, schedule)
    found, made = _studio(model, half, as_json).invert(image, source, options, how)
    pictures, parameters = made
    files = write_pictures(out, pictures, parameters)
    path = out / "inversion.p2p.safetensors"
    found.save(path)
    files["inversion"] = str(path)
    _tell(files, {**parameters, "inversion_file": str(path)}, as_json)


@app.command()
def batch(
    manifest: Annotated[Path, typer.Argument(help="CSV or JSONL: a row for each edit.")],
    out: given.Out,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    workers: given.Workers = 1,
    ray: given.Cluster = None,
    retries: given.Retries = 2,
    as_json: given.AsJson = False,
) -> None:
    """Carry out a manifest of edits with several workers.

    Its columns are the options of `p2p edit`, caption or source being the one that must be there,
    and name, the folder that pictures go to. What is done already is not done again.
    """
    require_diffusers()
    from ..jobs.engine import run
    from ..jobs.manifest import read_manifest
    from ..jobs.workers import workers_of

    jobs = read_manifest(manifest, out, model, half)
    with interruptible():
        summary = run(jobs, out, workers_of(workers, ray), retries, quiet=as_json)
    if as_json:
        sys.stdout.write(json.dumps(summary.told()) + "\n")
    else:
        sys.stdout.write(f"{summary}\n")
    if summary.failed:
        raise ValueError("\n".join(summary.complaints()))


def _studio(model: str, half: bool, quiet: bool) -> Studio:
    require_diffusers()
    from ..jobs.studio import Studio

    return Studio.open(model, half, quiet)


def _tell(files: Mapping[str, str], parameters: Mapping[str, Any], as_json: bool) -> None:
    report = {**parameters, "files": files}
    lines = [json.dumps(report)] if as_json else [f"{name}: {path}" for name, path in files.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    """The command line; returns the exit status."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # torch's is a RuntimeError
        sys.stderr.write(f"{str(error) or 'Out of memory.'}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
