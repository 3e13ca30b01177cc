"""What the demo edits: prompts, the words that change, and what the picture must then show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...demo.scenes import with_article


@dataclass(frozen=True)
class Pair:
    """A source prompt, the words swapped, and what the edited picture's object must then be."""

    prompt: str
    words: str
    replacement: str
    wanted: tuple[Mapping[str, str], ...]

    @property
    def edited(self) -> str:
        return self.prompt.replace(self.words, self.replacement, 1)


def _pair(colour: str, shape: str, ground: str, **change: str) -> Pair:
    """A prompt of one object and a change of its `colour` or `shape`, given as `to_…`."""
    ((attribute, replacement),) = change.items()
    before = {"colour": colour, "shape": shape}
    after = {**before, attribute.removeprefix("to_"): replacement}
    words = before[attribute.removeprefix("to_")]
    return Pair(with_article(f"{colour} {shape} {ground}"), words, replacement, (after,))


PAIRS: dict[str, tuple[Pair, ...]] = {
    "shape_swap": (
        _pair("red", "circle", "on the grass", to_shape="star"),
        _pair("blue", "square", "on sand", to_shape="heart"),
        _pair("yellow", "star", "at night", to_shape="circle"),
        _pair("purple", "triangle", "in the snow", to_shape="moon"),
        _pair("black", "heart", "in the sky", to_shape="cross"),
        _pair("orange", "ring", "in the sea", to_shape="square"),
        _pair("green", "cross", "on stone", to_shape="triangle"),
        _pair("pink", "moon", "on clay", to_shape="ring"),
    ),
    "colour_swap": (
        _pair("red", "circle", "on the grass", to_colour="blue"),
        _pair("blue", "square", "on sand", to_colour="red"),
        _pair("yellow", "star", "at night", to_colour="pink"),
        _pair("purple", "triangle", "in the snow", to_colour="green"),
        _pair("black", "heart", "in the sky", to_colour="red"),
        _pair("pink", "ring", "in the sea", to_colour="yellow"),
        _pair("green", "cross", "on stone", to_colour="purple"),
        _pair("yellow", "moon", "on clay", to_colour="black"),
    ),
}


Inputs = Mapping[str, float | str]

WINDOWS: dict[str, dict[str, Inputs]] = {
    "UNet": {
        "shape_swap": {"cross_replace_end": 0.5, "self_replace_end": 0.0},
        "colour_swap": {"cross_replace_end": 1.0, "self_replace_end": 0.8},
        "refine": {"cross_replace_end": 0.5, "self_replace_end": 0.2},
        "reweight": {"self_replace_end": 0.2},
    },
    "MMDiT": {
        "shape_swap": {"self_replace_end": 0.2},
        "colour_swap": {"self_replace_end": 0.8},
        "refine": {"self_replace_end": 0.4},
        "reweight": {"self_replace_end": 0.2},
    },
}
"""By model and kind of edit: a new shape needs its own outline; a new colour does not."""

ADDED: tuple[Pair, ...] = tuple(
    Pair(
        with_article(f"{colour} {shape} {ground}"),
        with_article(f"{colour} {shape}"),
        with_article(f"{pattern} {colour} {shape}"),
        ({"colour": colour, "pattern": pattern},),
    )
    for pattern, colour, shape, ground in (
        ("striped", "red", "circle", "on the grass"),
        ("dotted", "blue", "square", "on sand"),
        ("striped", "purple", "heart", "on stone"),
        ("dotted", "green", "star", "on clay"),
        ("striped", "orange", "square", "in the sea"),
        ("dotted", "black", "circle", "in the sky"),
        ("striped", "pink", "triangle", "at night"),
        ("dotted", "red", "heart", "on stone"),
    )
)
"""Prompts that a pattern is added to."""

REMOVED: tuple[Pair, ...] = tuple(
    Pair(pair.edited, pair.replacement, pair.words, ({**pair.wanted[0], "pattern": "plain"},))
    for pair in ADDED
)
"""Prompts that a pattern is taken from."""

LEFT_OUT: tuple[Pair, ...] = tuple(
    Pair(
        with_article(f"{colour} {shape} and a {other} {ground}"),
        f" and a {other}",
        "",
        ({"colour": colour, "shape": shape},),
    )
    for colour, shape, other, ground in (
        ("red", "circle", "blue star", "on the grass"),
        ("blue", "square", "red heart", "on sand"),
        ("yellow", "star", "pink circle", "at night"),
        ("purple", "triangle", "green moon", "in the snow"),
        ("black", "heart", "red cross", "in the sky"),
        ("yellow", "ring", "purple square", "in the sea"),
        ("green", "cross", "purple triangle", "on stone"),
        ("pink", "moon", "yellow ring", "on clay"),
    )
)
"""Prompts of two objects, the second of which is taken out."""

FADED: tuple[tuple[str, str], ...] = (
    ("a striped blue square on sand", "striped"),
    ("a dotted red circle on the grass", "dotted"),
    ("a striped purple heart on stone", "striped"),
    ("a dotted green star on clay", "dotted"),
    ("a striped orange circle in the sea", "striped"),
    ("a dotted black square in the sky", "dotted"),
)
"""Prompts and the pattern word in them that is turned up and down."""
