"""What the host did with a run's rows and conditionings, looked at so that nothing is lost unseen.

Samplers and patches of other extensions may leave an edit out, or give a source and its edits
different noise, without an error; the pictures would only look as if the edit were a bad one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from torch import Tensor

from ...schedules import progress
from .conditioning import Payload

ROUNDING = 1e-3
"""Rows that begin equal differ by less, relative to the largest value; rows of other noise by 1."""


class Witness:
    """What one run's sampler evaluated, and what its network was asked for. Changes as it runs."""

    def __init__(self, continues: bool) -> None:
        self.evaluated: list[Tensor] = []
        """Noise levels of the evaluations that the sampler asked the guider for."""
        self.asked: set[Any] = set()
        """The uuids of the conditionings that came to the network."""
        self._compared = continues

    def compare_start(self, rows: Tensor, payload: Payload) -> None:
        """Raises `ValueError` if the run's first rows of latents are not their source's."""
        if self._compared:
            return
        self._compared = True
        assert payload.rows is not None
        blocks = rows.unflatten(0, (-1, payload.rows.sources))
        if (blocks - blocks[:1]).abs().max() > ROUNDING * rows.abs().max():
            raise ValueError(
                "Expected source and edits to begin as the same latents, got others: the sampler "
                "or a patch of the model gives every row noise of its own, drawn where it cannot "
                "be shared. Choose another sampler, or take the patch off this model."
            )

    def check_edits(
        self,
        conds: Iterable[Mapping[str, Any]],
        payloads: Mapping[Any, Payload],
        sigmas: tuple[float, ...],
    ) -> None:
        """Raises `ValueError` if an edit acts at an evaluated level and its prompts never came.

        `conds` are the host's conditionings, whose ranges of steps are looked at, `payloads` what
        they carry by uuid, and `sigmas` the schedule that windows refer to.
        """
        editing = {name: c.controller for name, c in payloads.items() if c.controller is not None}
        if not editing or self.asked & editing.keys():
            return
        levels = {float(level) for level in self.evaluated}
        for cond in conds:
            controller = editing.get(cond["uuid"])
            first, last = cond.get("timestep_start", inf), cond.get("timestep_end", -inf)
            inside = [progress(level, sigmas) for level in levels if last <= level <= first]
            if controller is not None and any(controller.needs_source(here) for here in inside):
                raise ValueError(
                    "Expected the network to be asked for the controller's prompts, whose edits "
                    "act in these steps; it never was, so no edit was made. An extension samples "
                    "with a copy of the model's options from before this run, as AutomaticCFG "
                    "does: take its patch off this model."
                )
