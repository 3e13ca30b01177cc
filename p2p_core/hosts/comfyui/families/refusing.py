"""Networks that are none of ours: what they are called, and why, in one error."""

from __future__ import annotations

from typing import Any

from . import cross_transformer, transformer

UNETS = ("SD1.x", "SD2.x", "SDXL")

BYPASSING = {
    "ErnieImageModel": "ERNIE-Image",
    "PixArtMS": "PixArt",
    "HunYuanDiT": "HunyuanDiT",
}
"""By the name of the host's class: those that do not tell their attention of a call's options."""

UNREAD = {
    "LTXAVModel": "LTX-2 with sound",
    "HiDreamO1Transformer": "HiDream-O1",
    "ChromaRadiance": "Chroma Radiance",
    "AsymmDiTJoint": "Mochi",
    "CogVideoXTransformer3DModel": "CogVideoX",
    "GeneralDIT": "Cosmos 1",
}
"""By the name of the host's class: those whose attention lies otherwise than any row says."""


def known() -> list[str]:
    """List the families that can be edited."""
    tables = (transformer.KINDS, cross_transformer.KINDS)
    return [*UNETS, *(kind.name for table in tables for kind in table.values())]


def refusal(network: Any) -> ValueError:
    """Make the error for a model whose network is of no family that is known, naming it."""
    name = type(network).__name__
    called = BYPASSING.get(name) or UNREAD.get(name)
    got = f"{called} ({name})" if called else name
    why = "Prompt-to-Prompt edits the attention between image and text"
    if name in BYPASSING:
        why += f", which ComfyUI keeps out of reach in {called}"
    return ValueError(
        f"Expected a model of a family that is known ({', '.join(known())}), got {got}. {why}; "
        "load a checkpoint of one of these."
    )
