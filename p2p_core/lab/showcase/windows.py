"""Until when which kind of edit takes the source's attention: a table that presets are read off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from .exhibits import Exhibit, Score, summary, swap
from .pairs import ADDED, LEFT_OUT, PAIRS, REMOVED, Pair
from .studio import Link, Photographer, Request

ENDS = ((0.5, 0.0), (0.5, 0.2), (0.8, 0.2), (0.8, 0.4), (1.0, 0.8))
"""Until when words, and until when outlines, are the source's."""

KINDS: Mapping[str, Sequence[Pair]] = {
    **PAIRS,
    "add_pattern": ADDED,
    "remove_pattern": REMOVED,
    "remove_object": LEFT_OUT,
}

ALONE = ("remove_object",)
"""Kinds after which there is nothing but what is wanted."""

PROMPTS = sum(len(pairs) for pairs in KINDS.values())


def edit(kind: str, pair: Pair, cross: float, own: float) -> Link:
    """Make the edit of a pair with windows that end there."""
    ends = {"cross_replace_end": cross, "self_replace_end": own}
    if kind in PAIRS:
        return swap(pair, **ends)
    return "P2P_Refine", {"edited_prompt": pair.edited, **ends}


def windows(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Make every kind of edit with all windows, and re-prompted; yields after every prompt."""
    exhibit = Exhibit()
    table: dict[str, dict[str, Any]] = {
        f"{cross:g}, {own:g}": {"cross_replace_end": cross, "self_replace_end": own}
        for cross, own in ENDS
    }
    table["re-prompted"] = {}
    for kind, pairs in KINDS.items():
        scores: dict[str, list[Score]] = {name: [] for name in table}
        for n, pair in enumerate(pairs):
            chains = [[edit(kind, pair, *ends)] for ends in ENDS]
            shot = studio.shoot(Request(pair.prompt, chains, seeds, seed + n, pair.edited))
            for (name, source), picture in zip(
                product(table, shot["source"]), [*shot["p2p"], *shot["reprompt"]], strict=True
            ):
                scores[name].append(Score.of(source, picture, pair, alone=kind in ALONE))
            yield exhibit
        for name, row in table.items():
            row[kind] = summary(scores[name])
    exhibit.figures["windows"] = table
