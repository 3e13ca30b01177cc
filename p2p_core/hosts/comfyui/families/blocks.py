"""A transformer's blocks: what is edited in each, and which of them calls the host's attention."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ....attention import RowEdit
from ....calls import CallEdits

Made = TypeVar("Made")

COUNT_KEY = "p2p_blocks"
"""Our entry in the transformer_options of one call: how many of its blocks have come by."""


def of_each_block(
    edits: CallEdits, kinds: Sequence[str], make: Callable[[list[RowEdit]], Made]
) -> tuple[Made, ...]:
    """Make something of the edited rows of every block, once for blocks that are edited alike."""
    alike: dict[Hashable, Made] = {}
    made: list[Made] = []
    for block in range(len(kinds)):
        covered = edits.covered(block, kinds)
        if covered not in alike:
            alike[covered] = make(edits.rows(block, kinds))
        made.append(alike[covered])
    return tuple(made)


def with_source_vectors(given: dict[str, Any], sources: Mapping[int, int]) -> dict[str, Any]:
    """Give rows their source row's vector of the whole prompt: {row: its source's}."""
    vector = given.get("y")
    if not sources or not isinstance(vector, Tensor):
        return given
    rows = torch.arange(vector.shape[0], device=vector.device)
    for row, source in sources.items():
        rows[row] = source
    return {**given, "y": vector.index_select(0, rows)}


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
