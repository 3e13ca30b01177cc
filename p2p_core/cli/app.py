"""`p2p`: edit images by their prompts from the shell, with the diffusers host.

Every error is one line on standard error and an exit status of 1; wrong usage is 2, as shells are
used to. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ..controller import Chain, plan
from ..drawing import draw
from ..edits import Refine, Reweight, SelfInjection, WordSwap
from ..inversion.methods import METHODS, Options
from ..inversion.null_text import Schedule as NullTexts
from ..inversion.record import Inversion
from ..local_blend import LocalBlend, chosen_side
from ..notation import parse_words
from ..schedules import Schedule, Window
from ..viewing import Viewing

if TYPE_CHECKING:
    from ..hosts.diffusers.pipeline import Model
    from ..hosts.diffusers.sampling import Settings

app = typer.Typer(
    help="Edit images by editing their prompts.", no_args_is_help=True, add_completion=False
)


@dataclass(frozen=True)
class Wish:
    """What is to become of an image, as the command line says it."""

    source: str
    swap: tuple[str, ...] = ()
    refine: str | None = None
    reweight: tuple[str, ...] = ()
    blend: tuple[str, ...] = ()
    cross: float = 0.8
    own: float = 0.4

    def chain(self, read: Callable[[str], Any]) -> Chain:
        """The edits in order: swaps, the refined prompt, factors, the local blend."""
        windows = Schedule(Window(0, self.cross))
        injection = SelfInjection(Window(0, self.own))
        edits: list[Any] = [
            WordSwap(old, new, schedule=windows, self_injection=injection)
            for old, new in (_pair(text, "--swap bicycle=car") for text in self.swap)
        ]
        if self.refine is not None:
            edits.append(Refine(self.refine, True, windows, injection))
        if self.reweight:
            edits.append(Reweight(tuple(_factor(text) for text in self.reweight)))
        if self.blend:
            (branch,) = plan(self.source, [tuple(edits)], read).branches
            words = parse_words(",".join(self.blend))
            before, after = (
                tuple(word for word in words if _has(prompt, word))
                for prompt in (read(self.source), branch.edited)
            )
            for word in {*words} - {*before} - {*after}:
                branch.edited.tokens_of(word)  # raises, and says which words there are
            edits.append(LocalBlend(before, after))
        return tuple(edits)


def _has(prompt: Any, word: str) -> bool:
    try:
        return bool(prompt.tokens_of(word))
    except ValueError:
        return False


def _pair(text: str, example: str) -> tuple[str, str]:
    old, equals, new = (part.strip() for part in text.partition("="))
    if not equals or not old:
        raise ValueError(f"Expected words and others, such as {example}, got {text!r}.")
    return old, new


def _factor(text: str) -> tuple[str, float]:
    word, value = _pair(text, "--reweight fluffy=2")
    try:
        return word, float(value)
    except ValueError:
        raise ValueError(f"Expected a number after the word, got {text!r}.") from None


@dataclass(frozen=True)
class Studio:
    """A model, how to sample, and what images are made of."""

    model: Model
    settings: Settings
    size: tuple[int, int] | None
    """Width and height in pixels, if somebody asked for them."""
    negative: str
    quiet: bool

    @property
    def side(self) -> int:
        """Of the images that the model was trained on, in pixels."""
        return self.model.pipeline.unet.config.sample_size * 8

    def sample(self, prompt: str, chains: Sequence[Chain], latent: Any, **more: Any) -> Any:
        from ..hosts.diffusers.sampling import sample

        return sample(
            self.model,
            prompt,
            chains,
            latent,
            self.settings,
            negative=self.negative,
            quiet=self.quiet,
            **more,
        )

    def blank(self) -> torch.Tensor:
        """The latent of an image yet to be made."""
        channels = self.model.pipeline.unet.config.in_channels
        width, height = self.size or (self.side, self.side)
        return torch.zeros(1, channels, height // 8, width // 8)

    def latent(self, picture: Image.Image) -> torch.Tensor:
        """Of a photograph, scaled to the size wanted, or its shorter side to the model's."""
        scale = self.side / min(picture.size)
        width, height = (max(8, round(side * scale / 8) * 8) for side in picture.size)
        scaled = picture.resize(self.size or (width, height), Image.Resampling.LANCZOS)
        return self.model.to_latent(np.asarray(scaled)[None])

    def invert(self, latent: torch.Tensor, prompt: str, options: Options) -> Inversion:
        from tqdm import tqdm

        from ..hosts.diffusers.inverting import invert

        with tqdm(desc="inverting", disable=self.quiet) as bar:

            def watch(progress: Any) -> None:
                bar.total, bar.n = progress.total, progress.done
                if progress.loss is not None:
                    bar.set_postfix(loss=f"{progress.loss:.1e}", refresh=False)
                bar.update(0)

            return invert(
                self.model,
                latent,
                prompt,
                options,
                self.settings,
                negative=self.negative,
                watch=watch,
            )


ModelPath = Annotated[str, typer.Option("--model", help="A checkpoint, a folder, or demo.")]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]
Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
Cfg = Annotated[float | None, typer.Option(help="Guidance; 7.5, for the demo model 3.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise.")]
Sampler = Annotated[str, typer.Option(help="euler, euler_ancestral, ddim or dpmpp_2m.")]
Negative = Annotated[str, typer.Option(help="What images should not show.")]
Denoise = Annotated[float, typer.Option(help="How far towards noise to go with --image, 0 to 1.")]
Size = Annotated[str | None, typer.Option(help="Such as 512x768; else the model's own.")]
AsJson = Annotated[bool, typer.Option("--json", help="Tell the result as JSON, and nothing else.")]
Picture = Annotated[Path | None, typer.Option("--image", help="A photograph to edit.")]
Kept = Annotated[Path | None, typer.Option("--inversion-file", help="One that `p2p invert` wrote.")]
InversionName = Annotated[str, typer.Option("--inversion", help=f"{', '.join(METHODS)}.")]
Inner = Annotated[int, typer.Option(min=0, help="null-text: optimisation steps a sampling step.")]
Source = Annotated[str, typer.Option("--source", "--caption", help="What the image shows.")]
Swap = Annotated[list[str] | None, typer.Option(help="Words and others: bicycle=car. Repeatable.")]
RefineTo = Annotated[str | None, typer.Option("--refine", help="The whole edited prompt.")]
Factors = Annotated[list[str] | None, typer.Option("--reweight", help="fluffy=2. Repeatable.")]
Blend = Annotated[list[str] | None, typer.Option(help="Keep the edit to where these words are.")]
CrossEnd = Annotated[float, typer.Option("--cross-replace-end", help="How long layout is held.")]
SelfEnd = Annotated[float, typer.Option("--self-replace-end", help="How long outlines are held.")]


@app.command()
def edit(
    source: Source,
    out: Out,
    swap: Swap = None,
    refine: RefineTo = None,
    reweight: Factors = None,
    blend: Blend = None,
    image: Picture = None,
    inversion: InversionName = "null-text",
    inversion_file: Kept = None,
    model: ModelPath = "demo",
    steps: Steps = 50,
    cfg: Cfg = None,
    seed: Seed = 0,
    sampler: Sampler = "euler",
    negative: Negative = "",
    denoise: Denoise = 1.0,
    size: Size = None,
    inner_steps: Inner = 4,
    cross_replace_end: CrossEnd = 0.8,
    self_replace_end: SelfEnd = 0.4,
    as_json: AsJson = False,
) -> None:
    """Make an image and its edit, or edit a photograph."""
    wish = Wish(
        source,
        tuple(swap or ()),
        refine,
        tuple(reweight or ()),
        tuple(blend or ()),
        cross_replace_end,
        self_replace_end,
    )
    if not (wish.swap or wish.refine is not None or wish.reweight):
        raise ValueError("Expected an edit: --swap, --refine or --reweight. Add one.")
    if image is None and denoise < 1:
        raise ValueError(f"Expected --image for a denoise of {denoise:g}, got none. Add one.")
    picture = None if image is None else _read(image)
    studio = _studio(model, steps, cfg, seed, sampler, negative, denoise, size, as_json)
    chain = wish.chain(studio.model.read)
    edited = plan(source, [chain], studio.model.read).branches[0].edited.text
    latent, found = studio.blank(), None
    if inversion_file is not None:
        found = Inversion.load(inversion_file)
        latent = found.latent
    if picture is not None:
        latent = studio.latent(picture)
        if found is None:
            found = studio.invert(latent, source, Options(inversion, NullTexts(inner_steps)))
    result = studio.sample(source, [chain], latent, inversion=found)
    pictures = {
        "source": studio.model.to_pictures(result.source)[0],
        "edited": studio.model.to_pictures(result.edited)[0],
    }
    if wish.blend:
        pictures["mask"] = (result.masks[0].numpy() * 255).round().astype(np.uint8)
    parameters = {
        **asdict(wish),
        "model": model,
        "edited": edited,
        **_told(studio),
        "image": None if image is None else str(image),
        "inversion": None if found is None else found.method,
        "reconstruction_psnr": None if found is None else found.psnr[0],
    }
    _write(out, pictures, parameters, as_json)


@app.command()
def maps(
    source: Source,
    out: Out,
    words: Annotated[str, typer.Option(help="Words to look at; all where there are none.")] = "",
    side: Annotated[float | None, typer.Option(help="Of the layers; of the latent's side.")] = None,
    model: ModelPath = "demo",
    steps: Steps = 50,
    cfg: Cfg = None,
    seed: Seed = 0,
    sampler: Sampler = "euler",
    negative: Negative = "",
    size: Size = None,
    as_json: AsJson = False,
) -> None:
    """Show where an image looks at the words of its prompt."""
    from ..hosts.diffusers.attention import cross_attention_sides

    studio = _studio(model, steps, cfg, seed, sampler, negative, 1.0, size, as_json)
    latent = studio.blank()
    sides = cross_attention_sides(studio.model.pipeline.unet)
    chosen = chosen_side(sides, min(latent.shape[-2:]), side)
    views: list[Viewing] = []

    def look(controller: Any, rows: Any) -> list[Any]:
        views.append(Viewing.of(controller, rows, parse_words(words), chosen))
        return [views[0].maps]

    result = studio.sample(source, [], latent, maps=look)
    picture = studio.model.to_pictures(result.source)[0]
    seen = views[0].seen(Window())
    drawings = draw(seen, [torch.from_numpy(picture / 255).float()])
    pictures = {"source": picture}
    for number, (one, heatmap, steps_drawn) in enumerate(
        zip(seen, drawings.heatmaps, drawings.steps, strict=True), 1
    ):
        name = f"{number:02}_{''.join(c for c in one.word if c.isalnum())}"
        pictures[name] = (heatmap.numpy() * 255).round().astype(np.uint8)
        pictures[f"{name}_steps"] = (steps_drawn.numpy() * 255).round().astype(np.uint8)
    parameters = {"source": source, "words": [one.word for one in seen], "model": model}
    _write(out, pictures, parameters | _told(studio), as_json)


@app.command()
def invert(
    image: Annotated[Path, typer.Option(help="A photograph.")],
    source: Source,
    out: Out,
    inversion: InversionName = "null-text",
    model: ModelPath = "demo",
    steps: Steps = 50,
    cfg: Cfg = None,
    seed: Seed = 0,
    negative: Negative = "",
    denoise: Denoise = 1.0,
    size: Size = None,
    inner_steps: Inner = 4,
    as_json: AsJson = False,
) -> None:
    """Find how the model would have made a photograph, and keep it for `p2p edit`."""
    picture = _read(image)
    studio = _studio(model, steps, cfg, seed, "euler", negative, denoise, size, as_json)
    latent = studio.latent(picture)
    found = studio.invert(latent, source, Options(inversion, NullTexts(inner_steps)))
    out.mkdir(parents=True, exist_ok=True)
    found.save(out / "inversion.p2p.safetensors")
    pictures = {"reconstruction": studio.model.to_pictures(found.reconstruction)[0]}
    parameters = {
        "source": source,
        "image": str(image),
        "model": model,
        "inversion": inversion,
        "reconstruction_psnr": found.psnr[0],
        "inversion_file": str(out / "inversion.p2p.safetensors"),
    }
    _write(out, pictures, parameters | _told(studio), as_json)


benchmarks = typer.Typer(help="Measure edits against true answers.", no_args_is_help=True)
app.add_typer(benchmarks, name="benchmark")


@benchmarks.command()
def shapes(
    out: Out,
    cases: Annotated[int, typer.Option(min=1, help="How many; 105 is 15 of each kind.")] = 105,
    steps: Steps = 20,
    cfg: Annotated[float, typer.Option(help="Guidance.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the cases.")] = 2022,
    as_json: AsJson = False,
) -> None:
    """Invert and edit rendered scenes with the demo model, by every method.

    A run that was stopped goes on where it was.
    """
    _require_diffusers()
    from ..demo.benchmark import Book, Plan, measure, report
    from ..hosts.diffusers.fidelity import DiffusersLab

    plan = Plan("diffusers", steps, cfg, seed)
    book = Book.open(out, plan)
    measure(DiffusersLab(steps, cfg), book, cases, seed)
    summary = report(book, plan)
    text = json.dumps(summary) if as_json else (out / "report.md").read_text().rstrip()
    sys.stdout.write(text + "\n")


def _require_diffusers() -> None:
    """Raises `ValueError` where it is not installed."""
    try:
        import_module("diffusers")
        import_module("torchmetrics")
    except ImportError as error:
        raise ValueError(
            f"Expected diffusers to be installed, but {error.name} is not. "
            "Run: pip install 'prompt-to-prompt[headless]'"
        ) from error


def _studio(
    model: str,
    steps: int,
    cfg: float | None,
    seed: int,
    sampler: str,
    negative: str,
    denoise: float,
    size: str | None,
    quiet: bool,
) -> Studio:
    _require_diffusers()
    from ..hosts.diffusers.pipeline import Model
    from ..hosts.diffusers.sampling import Settings

    demo = model == "demo"
    made = Model.demo() if demo else Model.load(Path(model))
    if torch.cuda.is_available():
        made.pipeline.to("cuda")
    settings = Settings(
        steps, (3.0 if demo else 7.5) if cfg is None else cfg, sampler, denoise, seed
    )
    return Studio(made, settings, _size(size) if size else None, negative, quiet)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) % 8 == 0 for part in parts):
        raise ValueError(f"Expected a size in multiples of 8, such as 512x768, got {text!r}.")
    return int(parts[0]), int(parts[1])


def _told(studio: Studio) -> dict[str, Any]:
    told = asdict(replace(studio.settings, scheduler=None))
    return {**{k: v for k, v in told.items() if k != "scheduler"}, "negative": studio.negative}


def _read(path: Path) -> Image.Image:
    """A photograph, upright; raises `ValueError` for a file that is no picture."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"Expected a picture at {path}, which cannot be read: {error}.") from error


def _write(
    out: Path, pictures: dict[str, np.ndarray], parameters: dict[str, Any], as_json: bool
) -> None:
    """Pictures with their parameters inside, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("p2p", json.dumps(parameters))
    files: dict[str, str] = {}
    for name, picture in pictures.items():
        path = out / f"{name}.png"
        part = path.with_name(path.name + ".part")
        try:
            Image.fromarray(picture).save(part, format="PNG", pnginfo=text)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        files[name] = str(path)
    report = {**parameters, "files": files}
    lines = [json.dumps(report)] if as_json else [f"{name}: {path}" for name, path in files.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    """The command line; returns the exit status."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:  # out of memory is a RuntimeError
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
