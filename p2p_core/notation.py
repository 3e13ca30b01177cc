"""How users write several words with a value each, in one text: a line or a comma for each."""

from __future__ import annotations

import math
import re

from .schedules import Window
from .tokens import shortened

_VALUED = re.compile(r"(?P<word>.*?)\s*[:=]\s*(?P<value>[^:=]*)", re.DOTALL)
"""A word and what is said of it, behind the last colon or equals sign."""

_WEIGHT = re.compile(r"\(+(?P<word>.+):\s*(?P<value>[\d.]+)\s*\)+")
"""A weight as prompts have it."""

_WINDOW = re.compile(
    r"(?P<start>[\d.]+)\s*(?:-|–|to)\s*(?P<end>[\d.]+)(?:\s*fade\s*(?P<fade>[\d.]+))?"
)


def parse_words(text: str) -> tuple[str, ...]:
    """Read words and phrases, separated by commas or line ends.

    >>> parse_words("cat, big dog")
    ('cat', 'big dog')
    """
    return tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())


def parse_factors(text: str, factor: float) -> tuple[tuple[str, float], ...]:
    """Read words with a number each, or with `factor` where they have none of their own.

    "tail=-1" says the same as "tail: -1". Raises `ValueError` naming what is no number or has no
    word.

    >>> parse_factors("fluffy, tail: -1", 2.0)
    (('fluffy', 2.0), ('tail', -1.0))
    """
    factors: list[tuple[str, float]] = []
    for part in parse_words(text):
        if weight := _WEIGHT.fullmatch(part):
            meant = f"{weight['word'].strip('( ')}: {weight['value']}"
            raise ValueError(
                f"Expected words with their factors, got {part!r}, a weight as prompts have it. "
                f"Did you mean {meant!r}?"
            )
        word, value = _valued(part)
        if value is not None and not word:
            raise ValueError(
                f"Expected a word before its factor, got {part!r} in {shortened(text)!r}. "
                "Write such as 'fluffy: 2'."
            )
        factors.append((part, factor) if value is None else (word, _number(value, text)))
    return tuple(factors)


def parse_windows(text: str) -> tuple[tuple[str, Window], ...]:
    """Read words with a window each: where it starts and ends, and how softly; "wing=0-1", too.

    Raises `ValueError` naming the part that is no word with a window, and as `Window` does.

    >>> parse_windows("butterfly: 0-1, wing: 0.2-0.8 fade 0.1")[1]
    ('wing', Window(start=0.2, end=0.8, fade=0.1))
    """
    windows: list[tuple[str, Window]] = []
    for part in parse_words(text):
        word, value = _valued(part)
        match = _WINDOW.fullmatch(value or "")
        if match is None or not word:
            raise ValueError(
                f"Expected a word and its window, such as 'butterfly: 0-1' or "
                f"'butterfly: 0-1 fade 0.2', got {part!r}. Write where the window starts and ends "
                "as fractions of the sampling steps; separate several by commas or lines."
            )
        numbers = (_number(number or "0", text) for number in match.group("start", "end", "fade"))
        windows.append((word, Window(*numbers)))
    return tuple(windows)


def check_text(text: str) -> None:
    """Raises `ValueError` for characters that no encoding has, as a shell makes of stray bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected text in UTF-8, got {text[error.start : error.end]!r} in {text!r}. Write it "
            "anew."
        ) from None


def _valued(part: str) -> tuple[str, str | None]:
    """A word and the text of its value, None if it has none."""
    match = _VALUED.fullmatch(part)
    return (match["word"].strip(), match["value"].strip()) if match else (part, None)


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"Expected a number, got {value!r} in {shortened(text)!r}. Write one such as 1.5 or -2."
        )
    return number
