"""ControlNets beside edits: every block of a run's rows is to them as a batch of sources alone.

ControlNets fit their hints, masks and strengths for single images to the images of a batch, each by
a rule of its own, and do so apart for each of the conditionings that a call of the network holds.
The blocks of a run (the sources, then each edit's images) are handed to them as so many more
conditionings, so that each edited image gets what its source gets in a stock run.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ...controller import Rows
from .conditioning import Conditioning


def by_block(conditionings: dict[str, Conditioning], rows: Rows) -> dict[str, Conditioning]:
    """Copy the conditionings with copies of their ControlNets that know of `rows`.

    One that several entries share is still one, so that the host evaluates it once for them.
    """
    copies: dict[int, Any] = {}

    def fitted(extra: dict[str, Any]) -> dict[str, Any]:
        control = extra.get("control")
        if control is None:
            return extra
        if id(control) not in copies:
            copies[id(control)] = _by_block(control, rows)
        return {**extra, "control": copies[id(control)]}

    return {
        name: [[cond, fitted(extra)] for cond, extra in conditioning]
        for name, conditioning in conditionings.items()
    }


def _by_block(control: Any, rows: Rows) -> Any:
    """A copy of the host's ControlNet to which every block of `rows` is a conditioning's batch.

    Those chained before it are told so by it, and its copies for other devices are such, too.
    """
    own = _of_sources(control, rows.sources)
    get_control, blocks = own.get_control, rows.prompts

    def told(
        x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any
    ) -> Any:
        kinds = [kind for kind in transformer_options["cond_or_uncond"] for _ in range(blocks)]
        options = {**transformer_options, "cond_or_uncond": kinds}
        return get_control(x_noisy, t, cond, batched_number * blocks, options)

    own.get_control = told
    own.copy = partial(_by_block, control, rows)
    return own


def _of_sources(control: Any, sources: int) -> Any:
    """A copy of a ControlNet and of those chained before it, without hints beyond the sources'.

    Where there happen to be as many hints as rows in a call, the host gives out one per row.
    """
    own = control.copy()
    if isinstance(own.cond_hint_original, Tensor):
        own.cond_hint_original = own.cond_hint_original[:sources]
    if control.previous_controlnet is not None:
        own.set_previous_controlnet(_of_sources(control.previous_controlnet, sources))
    return own
