"""Model families: where a network looks at text and at itself, and how to have a hand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ....attention import CrossEdit, SelfEdit
from ....calls import Look
from .unet import UNet


class Family(Protocol):
    """What a run asks of a model's kind of network."""

    @property
    def sides(self) -> tuple[float, ...]:
        """Of the layers that can be looked at, as fractions of the latent's side, largest first."""
        ...

    def edited(
        self,
        options: dict[str, Any],
        cross: CrossEdit | None,
        own: SelfEdit | None,
        looks: Sequence[Look],
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """transformer_options of one call of the network with edits and looks in them.

        The given ones are not changed. `latent` is the call's shape, [rows channels height width],
        and `tokens` how many text tokens each row has.
        """
        ...


def family_of(model: Any) -> Family:
    """The family of a model's network; raises `ValueError` for one of none."""
    return UNet.of(model)
