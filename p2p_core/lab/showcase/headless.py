"""The demo's pictures without ComfyUI: the same edits by diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...attention_maps import Seen
from ...drawing import draw, to_bytes
from ...edits import Refine, Reweight, SelfInjection, WordSwap
from ...hosts.diffusers.pipeline import Model
from ...hosts.diffusers.sampling import Settings, sample
from ...hosts.diffusers.viewing import sample_and_look
from ...local_blend import LocalBlend
from ...notation import parse_factors, parse_windows, parse_words
from ...schedules import Schedule, Window
from .studio import Link

STEPS, CFG = 30, 3.0
"""As in workflows/1_word_swap.json."""


class HeadlessStudio:
    """Takes the pictures that `studio.Studio` takes on a server."""

    def __init__(self) -> None:
        self.model = Model.demo()

    def shoot(
        self,
        text: str,
        chains: Sequence[Sequence[Link]],
        seeds: int,
        seed: int,
        reprompt: str | None = None,
        maps: str | None = None,
    ) -> dict[str, list[np.ndarray]]:
        """Take pictures as every `Photographer`."""
        latent = torch.zeros(seeds, 4, 16, 16)
        edits = [tuple(edit_of(link) for link in chain) for chain in chains]
        rest = {"settings": Settings(STEPS, CFG, seed=seed), "quiet": True}
        seen: list[Seen] = []
        if maps is None:
            result = sample(self.model, text, edits, latent, **rest)
        else:
            words = parse_words(maps)
            result, seen = sample_and_look(self.model, text, edits, latent, words, **rest)
        pictures = self.model.to_pictures(torch.cat([result.source, result.edited]))
        shot = {"source": list(pictures[:seeds]), "p2p": list(pictures[seeds:])}
        if reprompt is not None:
            free = sample(self.model, reprompt, [], latent, **rest)
            shot["reprompt"] = list(self.model.to_pictures(free.source))
        if seen:
            shown = [torch.from_numpy(picture / 255).float() for picture in pictures]
            heatmaps = draw(seen, shown).heatmaps
            shot["maps"] = [to_bytes(one) for one in heatmaps]
        return shot


def edit_of(link: Link) -> Any:
    """Make the core's edit of an edit node."""
    kind, given = link
    inputs: Mapping[str, Any] = {
        "cross_replace_end": 0.8,
        "self_replace_end": 0.4,
        "word_windows": "",
        **given,
    }
    windows = Schedule(
        Window(0, inputs["cross_replace_end"]), parse_windows(inputs["word_windows"])
    )
    injection = SelfInjection(Window(0, inputs["self_replace_end"]))
    if kind == "P2P_WordSwap":
        return WordSwap(inputs["words"], inputs["replacement"], 1, windows, injection)
    if kind == "P2P_Refine":
        return Refine(inputs["edited_prompt"], True, windows, injection)
    if kind == "P2P_Reweight":
        factors = parse_factors(inputs["words"], 1.0)
        return Reweight(factors, self_injection=injection)
    return LocalBlend(parse_words(inputs["source_words"]), parse_words(inputs["edited_words"]))
