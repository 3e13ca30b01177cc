"""The options of `p2p`'s commands: names, types and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..inversion.methods import METHODS

ModelPath = Annotated[str, typer.Option("--model", help="A checkpoint, a folder, or demo.")]
Half = Annotated[bool, typer.Option("--half", help="Half precision: half the memory.")]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]
Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
Cfg = Annotated[float | None, typer.Option(help="Guidance; 7.5, for the demo model 3.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise.")]
Sampler = Annotated[str, typer.Option(help="euler, euler_ancestral, ddim or dpmpp_2m.")]
Scheduler = Annotated[str, typer.Option(help="Of the levels: normal or ddim_uniform.")]
Negative = Annotated[str, typer.Option(help="What images should not show.")]
Denoise = Annotated[float, typer.Option(help="How far towards noise to go with --image, 0 to 1.")]
Size = Annotated[str | None, typer.Option(help="Such as 512x768; else the model's own.")]
AsJson = Annotated[bool, typer.Option("--json", help="Tell the result as JSON, and nothing else.")]
Picture = Annotated[Path | None, typer.Option("--image", help="A photograph to edit.")]
Kept = Annotated[Path | None, typer.Option("--inversion-file", help="One that `p2p invert` wrote.")]
InversionName = Annotated[str, typer.Option("--inversion", help=f"{', '.join(METHODS)}.")]
Inner = Annotated[int, typer.Option(min=0, help="null-text: optimisation steps a sampling step.")]
Rate = Annotated[float, typer.Option("--learning-rate", help="null-text: how far a step goes.")]
Authors = Annotated[
    bool, typer.Option("--authors-schedule", help="null-text: as its authors do it, slower.")
]
Source = Annotated[str, typer.Option("--source", "--caption", help="What the image shows.")]
Swap = Annotated[list[str] | None, typer.Option(help="Words and others: bicycle=car. Repeatable.")]
RefineTo = Annotated[str | None, typer.Option("--refine", help="The whole edited prompt.")]
Inject = Annotated[bool, typer.Option(help="--refine: words in others' place take their layout.")]
Factors = Annotated[list[str] | None, typer.Option("--reweight", help="fluffy=2. Repeatable.")]
Blend = Annotated[list[str] | None, typer.Option(help="Keep the edit to where these words are.")]
CrossEnd = Annotated[float, typer.Option("--cross-replace-end", help="How long layout is held.")]
SelfEnd = Annotated[float, typer.Option("--self-replace-end", help="How long outlines are held.")]
SelfReach = Annotated[
    float | None,
    typer.Option(
        "--self-replace-reach",
        help="Up to which layers, of the latent's side, 1 being all; else of up to 32x32 cells.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="How many, with a model each.")]
Cluster = Annotated[
    str | None, typer.Option("--ray", help="A Ray cluster's address, or local; else processes.")
]
Retries = Annotated[int, typer.Option(min=0, help="How often a case that failed is tried again.")]
