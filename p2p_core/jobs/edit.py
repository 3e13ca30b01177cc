"""What is to become of an image, as a value: the same from the shell and from a manifest."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..controller import Chain, plan
from ..edits import Refine, Reweight, SelfInjection, WordSwap
from ..inversion.methods import Options
from ..inversion.null_text import REFERENCE
from ..inversion.null_text import Schedule as NullTexts
from ..local_blend import LocalBlend
from ..notation import check_text, parse_words
from ..schedules import Schedule, Window
from ..tokens import Prompt
from .files import Made

if TYPE_CHECKING:
    from ..hosts.diffusers.settings import Settings

LONGEST_SIDE = 16384
"""Of an image, in pixels: ComfyUI's own limit."""

LARGEST_SEED = 2**64 - 1
"""Torch's own limit."""

LARGEST_NUMBER = 3.4e38
"""Of those that single precision holds."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled. Raises `ValueError` for settings that cannot be."""

    steps: int = 50
    cfg: float | None = None
    """Guidance; None: what suits the model."""
    seed: int = 0
    sampler: str = "euler"
    scheduler: str = "normal"
    negative: str = ""
    denoise: float = 1.0
    size: str | None = None
    """Such as 512x768, width and height in pixels; None: the model's own."""

    def __post_init__(self) -> None:
        self.pixels()
        check_text(self.negative)
        if self.steps < 1 or not 0 < self.denoise <= 1:
            raise ValueError(
                "Expected 1 or more steps and a denoise within 0 and 1, got "
                f"{self.steps} and {self.denoise:g}."
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"Expected a seed from 0 to {LARGEST_SEED}, got {self.seed}.")
        if self.cfg is not None and not _is_number(self.cfg):
            raise ValueError(
                f"Expected a cfg that is a number in single precision, got {self.cfg:g}. "
                "7.5 suits most models."
            )

    def pixels(self) -> tuple[int, int] | None:
        """Width and height, if somebody asked for them."""
        if self.size is None:
            return None
        parts = self.size.lower().replace("×", "x").split("x")
        if len(parts) != 2 or not all(map(_is_side, parts)):
            raise ValueError(
                f"Expected a size in multiples of 8 up to {LONGEST_SIDE}, such as 512x768, got "
                f"{self.size!r}."
            )
        return int(parts[0]), int(parts[1])

    def settings(self, guidance: float) -> Settings:
        """For the diffusers host; `guidance` where none was asked for.

        Raises `ValueError` for a sampler that there is not.
        """
        from ..hosts.diffusers.settings import Settings

        cfg = guidance if self.cfg is None else self.cfg
        return Settings(self.steps, cfg, self.sampler, self.denoise, self.seed, self.scheduler)


def _is_side(text: str) -> bool:
    if not text.isdecimal() or len(text) > len(str(LONGEST_SIDE)):
        return False
    return 0 < int(text) <= LONGEST_SIDE and int(text) % 8 == 0


def _is_number(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= LARGEST_NUMBER


class Editor(Protocol):
    """Whoever carries edits out."""

    def edit(self, edit: Edit) -> Made: ...


@dataclass(frozen=True, kw_only=True)
class Edit(Sampling):
    """An image and its edits, in order: swaps, the refined prompt, factors, the local blend.

    `source` says what the image shows; the image is sampled, or the photograph `image` inverted by
    the method `inversion`, or as `inversion_file` keeps it. Raises `ValueError` where there is
    nothing to do and for what no model could carry out.
    """

    source: str
    swap: tuple[str, ...] = ()
    """Words and others: "bicycle=car"."""
    refine: str | None = None
    """The whole edited prompt."""
    inject_swapped: bool = True
    """Whether words of a refined prompt in the place of others take their attention."""
    reweight: tuple[str, ...] = ()
    """Words and a factor: "fluffy=2"."""
    blend: tuple[str, ...] = ()
    """Words that the edit is kept to: of either prompt, or "cat=dog" of the one and the other."""
    image: str | None = None
    inversion: str = "null-text"
    inversion_file: str | None = None
    inner_steps: int = 4
    learning_rate: float = 3e-2
    authors_schedule: bool = False
    """Null texts as their authors find them: more and smaller steps; the two above do not count."""
    cross_replace_end: float = 0.8
    self_replace_end: float = 0.4
    self_replace_reach: float | None = None
    """Up to which layers outlines are held, of the latent's side; None: of up to 32×32 cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.swap or self.refine is not None or self.reweight):
            raise ValueError("Expected an edit: --swap, --refine or --reweight. Add one.")
        for text in (self.source, self.refine or "", *self.swap, *self.reweight, *self.blend):
            check_text(text)
        if self.image is None and self.denoise < 1:
            raise ValueError(
                f"Expected --image for a denoise of {self.denoise:g}, got none. Add one."
            )
        self.options()
        self._swaps()
        self._factors()
        self._windows()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that it reads."""
        return tuple(Path(one) for one in (self.image, self.inversion_file) if one)

    def make(self, studio: Editor) -> Made:
        """Its pictures; raises `ValueError` for words, files and settings that do not fit."""
        return studio.edit(self)

    def options(self) -> Options:
        """How the photograph is inverted."""
        if self.authors_schedule:
            return Options(self.inversion, REFERENCE)
        return Options(self.inversion, NullTexts(self.inner_steps, self.learning_rate))

    def chain(self, read: Callable[[str], Prompt]) -> Chain:
        """The edits, `read` reading the words of a prompt.

        Raises `ValueError` for words that are in no prompt.
        """
        windows, injection = self._windows()
        edits: list[Any] = [
            WordSwap(old, new, schedule=windows, self_injection=injection)
            for old, new in self._swaps()
        ]
        if self.refine is not None:
            edits.append(Refine(self.refine, self.inject_swapped, windows, injection))
        if self.reweight:
            edits.append(Reweight(self._factors()))
        if self.blend:
            (branch,) = plan(self.source, [tuple(edits)], read).branches
            edits.append(self._local_blend(read(self.source), branch.edited))
        return tuple(edits)

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
        return LocalBlend(tuple(before), tuple(after))

    def parameters(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def arguments(self) -> list[str]:
        """The same as options of `p2p edit`, those that are as ever left out."""
        said: list[str] = []
        for field in fields(self):
            value, option = getattr(self, field.name), _option(field.name)
            if isinstance(value, tuple):
                said += [part for one in value for part in (option, one)]
            elif value == field.default:
                continue
            elif isinstance(value, bool):
                said += [option if value else option.replace("--", "--no-", 1)]
            else:
                said += [option, str(value)]
        return said

    def command(self, model: str, half: bool = False) -> str:
        """The line for the shell that does the same with this model, but for `--out`."""
        return shlex.join(["p2p", "edit", *self.arguments(), "--model", model, *["--half"] * half])

    def _swaps(self) -> list[tuple[str, str]]:
        return [_pair(text, "--swap bicycle=car") for text in self.swap]

    def _factors(self) -> tuple[tuple[str, float], ...]:
        return tuple(_factor(text) for text in self.reweight)

    def _windows(self) -> tuple[Schedule, SelfInjection]:
        return (
            Schedule(Window(0, self.cross_replace_end)),
            SelfInjection(Window(0, self.self_replace_end), self.self_replace_reach),
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _pair(text: str, example: str) -> tuple[str, str]:
    old, equals, new = (part.strip() for part in text.partition("="))
    if not equals or not old:
        raise ValueError(f"Expected words and others, such as {example}, got {text!r}.")
    return old, new


def _factor(text: str) -> tuple[str, float]:
    word, value = _pair(text, "--reweight fluffy=2")
    try:
        factor = float(value)
    except ValueError:
        factor = math.nan
    if not _is_number(factor):
        raise ValueError(
            f"Expected a number in single precision after the word, such as fluffy=2, got {text!r}."
        )
    return word, factor
