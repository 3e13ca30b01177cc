"""Windows that suit a kind of edit: a table, measured where the demo model can show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Until when words, and until when outlines and layout, are the source's, 0–1."""

    cross_end: float
    self_end: float
    origin: str
    """What measured it, or who says so."""


PRESETS: Mapping[str, Preset] = {
    "colour or material": Preset(
        1.0, 0.8, "`make demo`, windows: colour_swap; in joint attention ConsistEdit 2025 (to 1)"
    ),
    "another shape": Preset(
        0.5, 0.2, "`make demo`, windows: shape_swap; in joint attention Shin et al. 2025"
    ),
    "style": Preset(0.8, 0.3, "Shin et al. 2025, in joint attention"),
    "add": Preset(0.5, 0.2, "`make demo`, windows: add_pattern"),
    "remove": Preset(
        0.5,
        0.2,
        "`make demo`, windows: remove_object, which goes more often than at 0.8, 0.4; "
        "remove_pattern, which goes at both",
    ),
}
"""By what an edit is to do."""


def preset_of(name: str) -> Preset:
    """Find a preset; raises `ValueError` for a name that none has.

    >>> preset_of("style").self_end
    0.3
    """
    if name not in PRESETS:
        raise ValueError(f"Expected the preset to be one of {', '.join(PRESETS)}, got {name!r}.")
    return PRESETS[name]
