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

from cyclopts import App, CycloptsError, Parameter
from pydantic import TypeAdapter, ValidationError

from ..jobs.edit import Edit, Inverting, Sampling, Source
from ..jobs.files import write_pictures
from ..jobs.values import checked, said
from . import options as given
from .benchmarks import benchmarks
from .needs import interruptible, require_diffusers

if TYPE_CHECKING:
    from ..jobs.studio import Studio


def _converted(kind: Any, tokens: Any) -> Any:
    """An option's text as pydantic reads it, as it does manifests."""
    return TypeAdapter(kind).validate_python(tokens[0].value)


app = App(
    name="p2p",
    help="Edit images by editing their prompts.",
    help_flags="--help",
    version_flags=(),
    default_parameter=Parameter(
        converter=_converted,
        negative=(),
        allow_leading_hyphen=True,
        allow_repeating=True,
        consume_multiple=False,
        json_dict=False,
        json_list=False,
    ),
    result_action="return_value",
)
app.command(benchmarks)

NO_OPTION = Parameter(parse=False)


@checked
class Looking(Sampling):
    """How an image that is looked at is sampled: all of it."""

    denoise: Annotated[float, NO_OPTION] = 1.0


@checked
class Finding(Inverting, Sampling):
    """How an inversion is found: by a method, whatever samples with it later."""

    sampler: Annotated[str, NO_OPTION] = "euler"
    inversion_file: Annotated[None, NO_OPTION] = None


LOOKING, FINDING = Looking(), Finding()


@app.command
def edit(
    *,
    wanted: Annotated[Edit, given.Options],
    out: given.Out,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    as_json: given.AsJson = False,
) -> None:
    """Make an image and its edit, or edit a photograph."""
    pictures, parameters = _studio(model, half, as_json).edit(wanted)
    _tell(write_pictures(out, pictures, parameters), parameters, as_json)


@app.command
def maps(
    *,
    source: Source,
    out: given.Out,
    words: Annotated[str, Parameter(help="Words to look at; all where there are none.")] = "",
    side: Annotated[float | None, Parameter(help="Of the layers; of the latent's side.")] = None,
    how: Annotated[Looking, given.Options] = LOOKING,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    as_json: given.AsJson = False,
) -> None:
    """Show where an image looks at the words of its prompt."""
    pictures, parameters = _studio(model, half, as_json).maps(source, words, side, how)
    _tell(write_pictures(out, pictures, parameters), parameters, as_json)


@app.command
def invert(
    *,
    image: Annotated[Path, Parameter(help="A photograph.")],
    source: Source,
    out: given.Out,
    how: Annotated[Finding, given.Options] = FINDING,
    model: given.ModelPath = "demo",
    half: given.Half = False,
    as_json: given.AsJson = False,
) -> None:
    """Find how the model would have made a photograph, and keep it for `p2p edit`."""
    found, made = _studio(model, half, as_json).invert(image, source, how.options(), how)
    pictures, parameters = made
    files = write_pictures(out, pictures, parameters)
    path = out / "inversion.p2p.safetensors"
    found.save(path)
    files["inversion"] = str(path)
    _tell(files, {**parameters, "inversion_file": str(path)}, as_json)


@app.command
def batch(
    manifest: Annotated[Path, Parameter(help="CSV or JSONL: a row for each edit.")],
    /,
    *,
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
    """Run the command line; returns the exit status."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _refused(error)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # torch's is a RuntimeError
        sys.stderr.write(f"{str(error) or 'Out of memory.'}\n")
        return 1
    return 2 if sys.argv[1:] in ([], [*benchmarks.name]) else 0  # no command, so help was shown


def _refused(error: CycloptsError) -> int:
    """Say what is wrong with what was asked for; 2 for wrong usage, 1 for what no image has."""
    cause, status, line = error.__cause__, 2, str(error)
    if isinstance(cause, ValidationError) and error.unused_tokens:
        line = f"Expected options that --help tells of, got {error.unused_tokens[0]}."
    elif isinstance(cause, ValidationError):
        line = said(cause, error.argument.name if error.argument else "")
        wrong = cause.errors()[0]
        untyped = wrong["type"].endswith("_parsing") or wrong["type"] == "greater_than_equal"
        status = 2 if untyped and len(wrong["loc"]) < 2 else 1
    sys.stderr.write(f"{line}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
