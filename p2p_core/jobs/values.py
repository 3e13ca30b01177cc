"""Values as somebody writes them: converted and checked once, where they come in.

A class of settings is a dataclass by `checked`. Its fields say all there is to a setting: name,
type, default, range, and in the line below what it is, which is the help of its option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, cast

import pydantic.dataclasses
from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import core_schema
from typing_extensions import dataclass_transform

from ..notation import check_text
from .reading import shown

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked(written: type[T]) -> type[T]:
    """Make a frozen dataclass of keywords, whose values are converted to their types.

    Making one raises `ValueError` with one sentence for what cannot be.
    """
    config = ConfigDict(extra="forbid")
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(written)
    init = made.__init__

    @wraps(init)
    def checking(self: T, **values: Any) -> None:
        try:
            init(self, **values)
        except ValidationError as error:
            raise ValueError(said(error)) from error

    made.__init__ = checking
    return made


def said(error: ValidationError, name: str = "a value") -> str:
    """Say the first thing that is wrong, in one sentence; `name` where it is of no field."""
    wrong, *more = cast(list[Any], error.errors())
    if wrong["type"] == "value_error":
        return str(wrong["ctx"]["error"])
    place = wrong["loc"][0] if wrong["loc"] else name
    if wrong["type"].startswith("missing"):
        return f"Expected {place}, got none."
    _, should, what = wrong["msg"].partition(" should ")
    if not should:
        return f"Expected another {place} ({wrong['msg']}), got {shown(wrong['input'])}."
    others = (one for one in more if one["type"] == "literal_error" and _same_place(one, wrong))
    words = "".join(f"{one['ctx']['expected']} or " for one in others)
    what = what.replace("be ", f"be {words}", 1)
    return f"Expected {place} to {what}, got {shown(wrong['input'])}."


def _same_place(one: Any, other: Any) -> bool:
    """Tell whether two errors are of one value, of the kinds that it could have been."""
    return one["input"] == other["input"] and one["loc"][:-1] == other["loc"][:-1]


@dataclass(frozen=True)
class Written:
    """The spelling of a pair as one text, such as `example`, with `sign` or its like between."""

    example: str
    sign: str
    like: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        text = core_schema.plain_serializer_function_ser_schema(self.join, when_used="json")
        return core_schema.no_info_before_validator_function(
            self.split, handler(source), serialization=text
        )

    def split(self, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:  # as the shell has what holds several
            (value,) = value
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in re.split(f"[{self.sign}{self.like}]", value, maxsplit=1)]
        if len(parts) < 2 or not parts[0]:
            raise ValueError(f"Expected a pair such as {self.example}, got {shown(value)}.")
        return parts

    def join(self, pair: tuple[Any, Any]) -> str:
        return self.sign.join(
            one if isinstance(one, str) else str(one).removesuffix(".0") for one in pair
        )


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(";") if part.strip()]


def _encodable(text: str) -> str:
    check_text(text)
    return text


SEVERAL = BeforeValidator(_listed)
"""Of a tuple: it may be written in one text too, with semicolons between its members."""

ONE = Parameter(n_tokens=1, accepts_keys=False)
"""Of pairs: the shell has each as one word."""

Text = Annotated[str, AfterValidator(_encodable)]
"""In UTF-8."""

Number = Annotated[float, Field(ge=-3.4e38, le=3.4e38, allow_inf_nan=False)]
"""In single precision."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""From 0 to 1."""

Side = Annotated[int, Field(gt=0, le=16384, multiple_of=8)]
"""Of an image in pixels, ComfyUI's own limit."""

Swaps = Annotated[
    tuple[Annotated[tuple[Text, Text], Written("--swap bicycle=car", "=")], ...], SEVERAL, ONE
]
Factors = Annotated[
    tuple[Annotated[tuple[Text, Number], Written("--reweight fluffy=2", "=")], ...], SEVERAL, ONE
]
Words = Annotated[tuple[Text, ...], SEVERAL]
Size = Annotated[tuple[Side, Side], Written("--size 512x768", "x", "X×"), ONE]
"""Width and height."""
