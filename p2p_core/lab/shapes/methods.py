"""The benchmark's methods: inversions with and without Prompt-to-Prompt, and who does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ...controller import Chain
from ...edits import Refine, SelfInjection
from ...inversion.methods import Options
from ...inversion.null_text import REFERENCE
from ...local_blend import LocalBlend
from ...schedules import Schedule, Window
from .cases import Case

REFERENCE_CASES = 14
"""How many cases the reference's schedule of null-text optimisation is tried on: it is slow."""

STRENGTH = 0.7
"""How far towards noise image-to-image, noise-and-denoise and edit-friendly inversion go."""

CROSS, OWN = 0.6, 0.4
"""Until when cross- and self-attention are injected."""


@dataclass(frozen=True)
class Method:
    """An inversion with Prompt-to-Prompt, or without: then the prompt is changed and no more."""

    options: Options
    controlled: bool = True
    blend: bool = False
    denoise: float = 1.0
    sampler: str = "euler"
    reference: bool = False

    def chain(self, case: Case) -> Chain:
        """Make the edit of a case: the whole edited prompt, aligned with the source's."""
        cross, own = (CROSS, OWN) if self.controlled else (0.0, 0.0)
        windows, injection = Schedule(Window(0, cross)), SelfInjection(Window(0, own))
        refine = Refine(case.edited_prompt, True, windows, injection)
        before, after = case.words
        return (refine, *([LocalBlend((before,), (after,))] if self.blend else []))


METHODS: dict[str, Method] = {
    "ddim": Method(Options("ddim")),
    "null_text": Method(Options("null-text")),
    "null_text_reference": Method(Options("null-text", REFERENCE), reference=True),
    "negative_prompt": Method(Options("negative-prompt")),
    "proximal": Method(Options("negative-prompt", proximal=0.7)),
    "direct": Method(Options("direct")),
    "direct_shared": Method(Options("direct-shared")),
    "direct_shared_blend": Method(Options("direct-shared"), blend=True),
    "residual": Method(Options("residual")),
    "residual_blend": Method(Options("residual"), blend=True),
    "edit_friendly": Method(Options("edit-friendly"), denoise=STRENGTH, sampler="euler_ancestral"),
    "noise_blend": Method(Options("noise"), blend=True, denoise=STRENGTH),
    "reprompt": Method(Options("ddim"), controlled=False),
    "img2img": Method(Options("noise"), controlled=False, denoise=STRENGTH),
}
"""What ends in `_blend` has a local blend of the words that change. Without control: `reprompt`
from the inverted noise, `img2img` as SDEdit and users do it."""


@dataclass(frozen=True)
class Made:
    """What a method made of a picture: uint8[height width 3], and the cost in rows evaluated."""

    edited: np.ndarray
    reconstruction: np.ndarray | None
    evaluations: int
    optimisation_evaluations: int


class Lab(Protocol):
    """A host with the demo model, which carries methods out and counts what they take."""

    def make(self, method: Method, picture: np.ndarray, case: Case) -> Made:
        """Invert the case's picture and edit it."""
        ...

    def round_trip(self, picture: np.ndarray) -> np.ndarray:
        """Encode and decode a picture: uint8[height width 3] both ways."""
        ...

    def features(self, picture: np.ndarray) -> Sequence[Tensor]:
        """Compute every level of the autoencoder's encoder: float[channels height width]."""
        ...
