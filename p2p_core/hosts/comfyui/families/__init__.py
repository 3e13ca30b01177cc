"""Model families: where a network looks at text and at itself, and how to have a hand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ....background import SourceValues
from ....calls import CallEdits, Look
from .cross_transformer import CrossTransformer
from .transformer import Transformer
from .unet import UNet


class Family(Protocol):
    """What a run asks of a model's kind of network."""

    @property
    def sides(self) -> tuple[float, ...]:
        """Of the layers that can be looked at, as fractions of the latent's side, largest first."""
        ...

    def prepared(self, edits: CallEdits, latent: Tensor) -> Any:
        """Prepare all that the edits of one call are made of, kept for calls like it.

        `latent` is the call's, float[rows channels height width]. None where nothing is edited.
        """
        ...

    def edited(
        self,
        options: dict[str, Any],
        prepared: Any,
        looks: Sequence[Look],
        values: SourceValues | None,
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """transformer_options of one call of the network with edits and looks in them.

        The given ones are not changed. `values` says which rows take whose values, `latent` is the
        call's shape and `tokens` how many text tokens each row has.
        """
        ...

    def conditions(self, prepared: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Edit what else the network gets with a call, vectors of whole prompts among it."""
        ...

    def check(self, options: dict[str, Any]) -> None:
        """Raises `ValueError` if a call with these options, now over, went past the edits."""
        ...


def family_of(model: Any) -> Family:
    """Find the family of a model's network; raises `ValueError` for one of none."""
    return Transformer.of(model) or CrossTransformer.of(model) or UNet.of(model)
