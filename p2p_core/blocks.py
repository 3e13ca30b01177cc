"""Where in a transformer an edit acts: windows over its blocks.

All layers of a transformer have one size, so what a UNet has in sizes it has in depth; and models
of few steps have none to spare (Shin et al. 2025: then limit blocks, not steps).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

UNDIVIDED = ("block",)
"""The blocks of a network that has none to tell apart."""

CLEAN: dict[str, dict[int, tuple[int, ...]]] = {
    "Flux": {57: (11, 12, 14, 17, 18)},
    "SD3": {24: (4, 5, 7, 8, 9), 38: (16, 18, 20, 21, 24)},
}
"""Blocks in which words are found best (Shin et al. 2025), by family and its number of blocks."""

_PART = re.compile(
    r"(?P<side>first|middle|last) +(?P<share>\d+ */ *[1-9]\d*|\d*\.?\d+)"
    r"|(?P<start>\d+) *- *(?P<end>\d+)|(?P<one>\d+)|(?P<kind>all|double|single)"
)


@dataclass(frozen=True)
class Blocks:
    """Blocks by their place, such as "first 2/3", "20-37", "double" or "0-3, single"; "all".

    Numbers count from 0 in the order that a model goes through its blocks. Raises `ValueError` for
    anything else.

    >>> [n for n in range(6) if Blocks("first 1/3, 4-5").covers(n, ["block"] * 6)]
    [0, 1, 4, 5]
    """

    text: str = "all"

    def __post_init__(self) -> None:
        for part in self._parts:
            found = _PART.fullmatch(part)
            share = found and found["share"]
            reversed_ = found and found["start"] and int(found["start"]) > int(found["end"])
            if not found or reversed_ or (share and not 0 < _share(share) <= 1):
                raise ValueError(
                    f"Expected blocks such as all, first 2/3, 20-37, double or single, got "
                    f"{self.text!r}. Numbers count from 0; several parts stand between commas."
                )

    @property
    def _parts(self) -> list[str]:
        return [part.strip().lower() for part in self.text.split(",")]

    def covers(self, block: int, kinds: Sequence[str]) -> bool:
        """Tell whether it names a block, of a model with blocks of these kinds."""
        return block in self.of(kinds)

    def of(self, kinds: Sequence[str]) -> frozenset[int]:
        """Find the blocks that it names, of a model with blocks of these kinds in order.

        Raises `ValueError` for a part that names none.
        """
        return _chosen(tuple(self._parts), tuple(kinds))


def clean(family: str, count: int) -> frozenset[int]:
    """Find the blocks in which words are looked for, of a model with so many: those known, or all.

    >>> sorted(clean("SD3", 24)), len(clean("Chroma", 57))
    ([4, 5, 7, 8, 9], 57)
    """
    return frozenset(CLEAN.get(family, {}).get(count, range(count)))


@lru_cache(maxsize=64)
def _chosen(parts: tuple[str, ...], kinds: tuple[str, ...]) -> frozenset[int]:
    """Find the blocks that parts name, once for all blocks that ask; see `Blocks.of`."""
    chosen: set[int] = set()
    for part in parts:
        found = set(_named(part, kinds))
        if not found:
            raise ValueError(
                f"Expected blocks that this model has, got {part!r} of {len(kinds)} blocks"
                f" ({', '.join(f'{kinds.count(k)} {k}' for k in dict.fromkeys(kinds))}). "
                "Choose others, or all."
            )
        chosen |= found
    return frozenset(chosen)


def _named(part: str, kinds: Sequence[str]) -> Sequence[int]:
    found, count = _PART.fullmatch(part), len(kinds)
    assert found
    if found["kind"] == "all":
        return range(count)
    if found["kind"]:
        return [n for n, kind in enumerate(kinds) if kind == found["kind"]]
    if found["side"]:
        size = max(1, round(_share(found["share"]) * count))
        start = {"first": 0, "middle": (count - size) // 2, "last": count - size}[found["side"]]
        return range(start, start + size)
    start = int(found["start"] or found["one"])
    end = int(found["end"] or found["one"])
    return range(start, end + 1) if end < count else ()


def _share(text: str) -> float:
    return float(Fraction(text.replace(" ", "")))
