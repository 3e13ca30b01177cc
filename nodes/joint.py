"""Inputs that say how an edit acts in joint attention, the same for every edit node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.blocks import Blocks
from ..p2p_core.edits import AUTOMATIC, MODES, Joint
from .common import ADVANCED

SOURCE, OWN = "the source's", "the edit's"


def joint_inputs() -> list[Any]:
    """Make the inputs; models whose text has its own attention take them as they begin."""
    return [
        io.Combo.Input(
            "attention",
            options=list(MODES),
            default=AUTOMATIC,
            optional=True,
            tooltip="For models whose text and image share one attention (Flux, SD3, Qwen-Image, "
            "Z-Image, Lumina2, Chroma, AuraFlow, HiDream, Krea 2). Shared structure: the edited "
            "image takes the "
            "source's layout as long as self-attention is taken, and reads its own text. Aligned "
            "words: as in the paper, each word looks where its counterpart looked. Automatic is "
            "shared structure there, and the paper's on all other models.",
            **ADVANCED,
        ),
        io.String.Input(
            "blocks",
            default="all",
            optional=True,
            tooltip="In which blocks of a transformer the edit acts: all, first 2/3, last 1/2, "
            "middle 1/3, 20-37 (counted from 0), double, single, or several between commas. Models "
            "of few steps have none to spare: limit blocks there, such as first 2/3.",
            **ADVANCED,
        ),
        io.Combo.Input(
            "prompt_vector",
            options=[SOURCE, OWN],
            default=SOURCE,
            optional=True,
            tooltip="Flux.1 and SD3 also get one vector of the whole prompt, which acts on every "
            "pixel. While self-attention is taken it is the source's, or all through the edit's.",
            **ADVANCED,
        ),
    ]


def joint(attention: str = AUTOMATIC, blocks: str = "all", prompt_vector: str = SOURCE) -> Joint:
    """Make it of a node's inputs; raises `ValueError` as `Joint` and `Blocks` do."""
    return Joint(attention, Blocks(blocks), prompt_vector == SOURCE)
