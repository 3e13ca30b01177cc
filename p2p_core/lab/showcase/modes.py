"""Which of joint attention's modes, windows and blocks serve best: a table of word swaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from ...demo.recognise import Found, recognise
from ...demo.scenes import COLOURS, Item, item_mask
from ...edits.base import ALIGNED, SHARED
from ..metrics import psnr
from .exhibits import Exhibit, Score, summary, swap
from .pairs import PAIRS, Pair
from .studio import Photographer, Request

AT_ONCE = 8
"""Edits of one source that a P2P Controller takes."""


@dataclass(frozen=True)
class Way:
    """How a word swap acts, by the names of its node's inputs."""

    attention: str
    cross_replace_end: float
    self_replace_end: float
    blocks: str


WINDOWS: dict[str, Sequence[tuple[float, float]]] = {
    SHARED: ((1.0, 0.2), (1.0, 0.4), (1.0, 0.6), (1.0, 0.8)),
    ALIGNED: ((0.5, 0.0), (0.8, 0.2), (0.8, 0.4), (1.0, 0.8)),
}
"""Until when words and layout are the source's; shared structure leaves words alone."""

WAYS = tuple(
    Way(attention, *ends, blocks)
    for attention, windows in WINDOWS.items()
    for ends, blocks in product(windows, ("all", "double", "first 1/2"))
)


def object_psnr(there: Found, picture: np.ndarray, pair: Pair) -> float:
    """Measure how near a picture's object is to the true answer, in dB.

    The true answer is the wanted object, drawn in the place and size of the source's, which is
    `there`; looked at is what lies inside its outline. The picture is uint8[height width 3].
    """
    (wanted,) = pair.wanted
    item = Item(wanted["shape"], wanted["colour"], "plain", there.x, there.y, there.radius)
    inside = np.asarray(item_mask(item)) > 127
    truth = np.broadcast_to(np.array(COLOURS[item.colour], np.uint8), picture.shape)
    return psnr(picture[inside], truth[inside])


def modes(studio: Photographer, seeds: int, seed: int) -> Iterator[Exhibit]:
    """Swap words in every way; yields after every prompt."""
    exhibit = Exhibit()
    table: dict[Way, dict[str, Any]] = {way: asdict(way) for way in WAYS}
    for kind, pairs in PAIRS.items():
        scores: dict[Way, list[Score]] = {way: [] for way in WAYS}
        near: dict[Way, list[float]] = {way: [] for way in WAYS}
        for n, pair in enumerate(pairs):
            for at in range(0, len(WAYS), AT_ONCE):
                ways = WAYS[at : at + AT_ONCE]
                chains = [[swap(pair, **asdict(way))] for way in ways]
                shot = studio.shoot(Request(pair.prompt, chains, seeds, seed + n))
                sources = [(source, recognise(source).items[:1]) for source in shot["source"]]
                for (way, (source, items)), picture in zip(
                    product(ways, sources), shot["p2p"], strict=True
                ):
                    scores[way].append(Score.of(source, picture, pair))
                    near[way] += [object_psnr(there, picture, pair) for there in items]
            yield exhibit
        for way, row in table.items():
            row[kind] = {**summary(scores[way]), "object_psnr": float(np.mean(near[way]))}
    exhibit.figures["modes"] = list(table.values())
