"""The demo's pictures without ComfyUI: the same edits by diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...attention_maps import Seen
from ...drawing import draw, to_bytes
from ...edits import Refine, Reweight, SelfInjection, WordSwap
from ...hosts.diffusers.pipeline import Model
from ...hosts.diffusers.sampling import Settings, sample
from ...hosts.diffusers.viewing import sample_and_look
from ...local_blend import LATENTS, LocalBlend
from ...notation import parse_factors, parse_windows, parse_words
from ...schedules import Schedule, Window
from .studio import Link, Pictures, Request

STEPS, CFG = 30, 3.0
"""As in workflows/1_word_swap.json."""


class HeadlessStudio:
    """Takes the pictures that `studio.Studio` takes on a server."""

    model = "UNet"

    def __init__(self) -> None:
        self.demo = Model.demo()

    def shoot(self, wanted: Request) -> Pictures:
        """Take pictures as every `Photographer`."""
        latent = torch.zeros(wanted.seeds, 4, 16, 16)
        edits = [tuple(edit_of(link) for link in chain) for chain in wanted.chains]
        rest = {"settings": Settings(STEPS, CFG, seed=wanted.seed), "quiet": True}
        seen: list[Seen] = []
        if wanted.maps is None:
            result = sample(self.demo, wanted.text, edits, latent, **rest)
        else:
            words = parse_words(wanted.maps)
            result, seen = sample_and_look(self.demo, wanted.text, edits, latent, words, **rest)
        pictures = self.demo.to_pictures(torch.cat([result.source, result.edited]))
        shot = {"source": list(pictures[: wanted.seeds]), "p2p": list(pictures[wanted.seeds :])}
        if wanted.reprompt is not None:
            free = sample(self.demo, wanted.reprompt, [], latent, **rest)
            shot["reprompt"] = list(self.demo.to_pictures(free.source))
        if wanted.masks:
            shot["masks"] = [to_bytes(mask[..., None].expand(-1, -1, 3)) for mask in result.masks]
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
    return LocalBlend(
        *(parse_words(inputs.get(f"{whose}_words", "")) for whose in ("source", "edited")),
        threshold=None if inputs.get("threshold_by") == "Otsu" else 0.3,
        smoothing=inputs.get("smoothing", 0.0),
        keep_background=inputs.get("keep_background", LATENTS),
        sharpen=inputs.get("sharpen", 0),
    )
