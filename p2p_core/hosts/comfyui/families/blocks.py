"""A transformer's blocks: which of them calls the host's attention, and whether any did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....calls import with_sources

COUNT_KEY = "p2p_blocks"
"""Our entry in the transformer_options of one call: how many of its blocks have come by."""


def with_source_vectors(given: dict[str, Any], sources: Mapping[int, int]) -> dict[str, Any]:
    """Give rows their source row's vector of the whole prompt: {row: its source's}."""
    vectors = given.get("y")
    if not sources or not isinstance(vectors, Tensor):
        return given
    return {**given, "y": with_sources(vectors, sources)}


@dataclass
class Count:
    """Which block comes next; changes while the network runs."""

    came: int = 0
    refined: int = 0
    crossing: bool = False
    """Whether a block's self-attention was last, where it also has a cross-attention."""


def block_number(count: Count, options: dict[str, Any], starts: Mapping[str, int]) -> int:
    """Tell which block calls: as the host says, else the next.

    `starts` are the numbers of the first block of every type that the host counts by itself.
    """
    number = count.came
    if "block_index" in options:
        number = starts.get(options.get("block_type", ""), 0) + options["block_index"]
    count.came = number + 1
    return number


def check_came(options: dict[str, Any], name: str) -> None:
    """Raise `ValueError` if none of a call's attention came to our override."""
    count = options.get(COUNT_KEY)
    if count is not None and not count.came:
        raise ValueError(
            f"Expected the attention of {name} to go through ComfyUI's own functions, but none of "
            "it did: another extension replaces the network or its attention (such as Nunchaku). "
            "Load the model with ComfyUI's own loader."
        )
