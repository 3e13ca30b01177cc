"""What is to become of an image, as a value: the same from the shell and from a manifest."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from cyclopts import Parameter
from pydantic import Field, TypeAdapter

from ..blocks import Blocks
from ..controller import Controller, plan
from ..edits import AUTOMATIC, FACTORS_ACT, Joint, Refine, Reweight, SelfInjection, WordSwap
from ..inversion.methods import METHODS, Options
from ..inversion.null_text import REFERENCE
from ..inversion.null_text import Schedule as Nullstrs
from ..local_blend import MOST_SMOOTHING, LocalBlend
from ..notation import parse_words
from ..presets import PRESETS, preset_of
from ..schedules import Schedule, Window
from ..tokens import Prompt
from .files import Made
from .values import Factors, Fraction, Number, Size, Swaps, Text, Words, checked

if TYPE_CHECKING:
    from ..hosts.diffusers.settings import Settings

Source = Annotated[Text, Parameter(("--source", "--caption"), help="What the image shows.")]
Steps = Annotated[int, Field(ge=1), Parameter(help="Sampling steps.")]


@checked
class Sampling:
    """How images are sampled. Raises `ValueError` for settings that cannot be."""

    steps: Steps = 50
    cfg: Number | None = None
    """Guidance; else the model's own: 7.5, for the demo model 3, for Flux 1."""
    guidance: Number | None = None
    """Guidance that a model distilled for it is told, such as Flux.1-dev; else 3.5."""
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0
    """Of the noise."""
    sampler: str = "euler"
    """euler, euler_ancestral, ddim or dpmpp_2m."""
    scheduler: str = "normal"
    """Of the levels: normal or ddim_uniform."""
    negative: Text = ""
    """What images should not show."""
    denoise: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far towards noise to go with --image, 0 to 1."""
    size: Size | None = None
    """Such as 512x768; else the model's own."""

    def settings(self, cfg: float) -> Settings:
        """For the diffusers host; `cfg` where none was asked for.

        Raises `ValueError` for a sampler that there is not.
        """
        from ..hosts.diffusers.settings import Settings

        cfg = cfg if self.cfg is None else self.cfg
        told = {} if self.guidance is None else {"guidance": self.guidance}
        return Settings(
            self.steps, cfg, self.sampler, self.denoise, self.seed, self.scheduler, **told
        )

    def parameters(self) -> dict[str, Any]:
        """Write all of it as JSON has it."""
        return TypeAdapter(type(self)).dump_python(self, mode="json")


@checked
class Inverting:
    """How a photograph is inverted. Raises `ValueError` for what is no method."""

    inversion: Annotated[str, Parameter(help=f"{', '.join(METHODS)}.")] = "null-text"
    inversion_file: Path | None = None
    """One that `p2p invert` wrote."""
    inner_steps: Annotated[int, Field(ge=0)] = 4
    """null-text: optimisation steps a sampling step."""
    learning_rate: float = 3e-2
    """null-text: how far a step goes."""
    authors_schedule: bool = False
    """null-text: as its authors do it, slower; the two above do not count."""

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Options:
        """Make the method with its options."""
        if self.authors_schedule:
            return Options(self.inversion, REFERENCE)
        return Options(self.inversion, Nullstrs(self.inner_steps, self.learning_rate))


class Editor(Protocol):
    """Whoever carries edits out."""

    def edit(self, edit: Edit) -> Made: ...


@checked
class Changes(Sampling):
    """An image, sampled or a photograph, and its edits, in order."""

    source: Source
    swap: Swaps = ()
    """Words and others: bicycle=car. Repeatable."""
    refine: Text | None = None
    """The whole edited prompt."""
    inject_swapped: Annotated[bool, Parameter(negative="--no-inject-swapped")] = True
    """--refine: words in others' place take their layout."""
    reweight: Factors = ()
    """fluffy=2. Repeatable."""
    blend: Words = ()
    """Keep the edit to where these words are; cat=dog: one of the prompt, one of the edited."""
    blend_threshold: Fraction | Literal["otsu"] = 0.3
    """--blend: how strong a word must be to count, of its maximum; or otsu, which finds it."""
    blend_smoothing: Annotated[float, Field(ge=0, le=MOST_SMOOTHING)] = 0.0
    """--blend: blurs words' maps by so many of their cells."""
    image: Path | None = None
    """A photograph to edit."""


@checked
class Edit(Inverting, Changes):
    """An image and its edits: swaps, the refined prompt, factors, the local blend.

    The image is sampled, or the photograph `image` inverted, or as `inversion_file` keeps it.
    Raises `ValueError` where there is nothing to do and for what no model could carry out.
    """

    cross_replace_end: float = 0.8
    """How long layout is held."""
    self_replace_end: float = 0.4
    """How long outlines are held."""
    self_replace_reach: float | None = None
    """Up to which layers, of the latent's side, 1 being all; else of up to 32x32 cells."""
    preset: Annotated[str | None, Parameter(help=f"Windows that suit {', '.join(PRESETS)}.")] = None
    attention: str = AUTOMATIC
    """Mode where text and image share attention: shared structure, aligned words, automatic."""
    blocks: str = "all"
    """Blocks in which edits act: all, first 2/3, last 1/2, 20-37, double; several with commas."""
    prompt_vector: Literal["source", "edit"] = "source"
    """Whose vector of the whole prompt Flux.1 and SD3 get while outlines are held."""
    factors_act: Literal["automatic", "after the softmax", "before the softmax"] = AUTOMATIC
    """--reweight: where factors act; before the softmax, attention still sums to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.swap or self.refine is not None or self.reweight):
            raise ValueError("Expected an edit: --swap, --refine or --reweight. Add one.")
        if self.image is None and self.denoise < 1:
            raise ValueError(
                f"Expected --image for a denoise of {self.denoise:g}, got none. Add one."
            )
        if self.preset is not None and (self.cross_replace_end, self.self_replace_end) != (
            Edit.cross_replace_end,
            Edit.self_replace_end,
        ):
            raise ValueError(
                "Expected --preset or windows by --cross-replace-end and --self-replace-end, got "
                "both. Remove one."
            )
        self._how()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that it reads."""
        return tuple(one for one in (self.image, self.inversion_file) if one)

    def make(self, studio: Editor) -> Made:
        """Make its pictures; raises `ValueError` for what does not fit."""
        return studio.edit(self)

    def plan(self, read: Callable[[str], Prompt]) -> Controller:
        """Plan the source prompt and its one branch, `read` reading the words of a prompt.

        Raises `ValueError` for words that are in no prompt.
        """
        windows, how = self._how()
        edits: list[Any] = [WordSwap(old, new, schedule=windows, **how) for old, new in self.swap]
        if self.refine is not None:
            edits.append(Refine(self.refine, self.inject_swapped, windows, **how))
        if self.reweight:
            act = FACTORS_ACT[self.factors_act]
            edits.append(Reweight(self.reweight, renormalised=act, **how))
        planned = plan(self.source, [tuple(edits)], read)
        if not self.blend:
            return planned
        (branch,) = planned.branches
        blend = self._local_blend(planned.source, branch.edited)
        blend.columns(planned.source, branch.edited)  # raises for words that are not there
        chain = (*branch.chain, blend)
        return replace(planned, branches=(replace(branch, chain=chain, blend=blend),))

    def _local_blend(self, source: Prompt, edited: Prompt) -> LocalBlend:
        before: list[str] = []
        after: list[str] = []
        for word in parse_words(",".join(self.blend)):
            one, equals, other = (part.strip() for part in word.partition("="))
            if equals:
                before += [one] if one else []
                after += [other] if other else []
                continue
            here, there = word in source, word in edited
            if not here and not there:
                edited.tokens_of(word)  # raises, and says which words there are
            before += [word] if here else []
            after += [word] if there else []
        threshold = None if self.blend_threshold == "otsu" else self.blend_threshold
        return LocalBlend(
            tuple(before), tuple(after), threshold=threshold, smoothing=self.blend_smoothing
        )

    def arguments(self) -> list[str]:
        """Write it as options of `p2p edit`, defaults left out."""
        said: list[str] = []
        written = self.parameters()
        for field in fields(self):
            value, option = written[field.name], "--" + field.name.replace("_", "-")
            if isinstance(value, list):
                said += [part for one in value for part in (option, one)]
            elif value == field.default:
                continue
            elif isinstance(value, bool):
                said += [option if value else option.replace("--", "--no-", 1)]
            else:
                said += [option, str(value)]
        return said

    def command(self, model: str, half: bool = False) -> str:
        """Write the line for the shell that does the same with this model, but for `--out`."""
        return shlex.join(["p2p", "edit", *self.arguments(), "--model", model, *["--half"] * half])

    def _how(self) -> tuple[Schedule, dict[str, Any]]:
        """When words act, and what else all its edits have in common."""
        cross_end, self_end = self.cross_replace_end, self.self_replace_end
        if self.preset is not None:
            chosen = preset_of(self.preset)
            cross_end, self_end = chosen.cross_end, chosen.self_end
        return Schedule(Window(0, cross_end)), {
            "self_injection": SelfInjection(Window(0, self_end), self.self_replace_reach),
            "joint": Joint(self.attention, Blocks(self.blocks), self.prompt_vector == "source"),
        }
