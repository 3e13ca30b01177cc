"""The node that lays source and edited images over each other, to see what changed."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..p2p_core.controller import Branch
from ..p2p_core.local_blend import LocalBlend
from ..p2p_core.tokens import Prompt
from .common import CATEGORY, Controller, optional_schema
from .controller import done


class P2PCompare(io.ComfyNode):
    """Show each edited image beside its source, captioned with what was changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Compare",
            display_name="P2P Compare",
            category=CATEGORY,
            description="Lays every edited image over its source: a slider between the two, or "
            "their difference, with a tab per edit that says what it changed.",
            **optional_schema(
                search_aliases=["prompt to prompt", "compare images", "before after", "difference"]
            ),
            inputs=[
                io.Image.Input("source", tooltip="The decoded source images."),
                io.Image.Input(
                    "edited",
                    tooltip="The decoded edited images, as a P2P KSampler gives them: as many for "
                    "each edit as there are source images.",
                ),
                Controller.Input(
                    "controller",
                    optional=True,
                    tooltip="The controller that the images were sampled with, whose edits become "
                    "the captions. Without it they are numbered.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, source: Any, edited: Any, controller: Any = None) -> io.NodeOutput:
        captions = captioned(
            len(source), len(edited), None if controller is None else controller.controller
        )
        return io.NodeOutput(
            ui={
                "source": ui.PreviewImage(source, cls=cls).values,
                "edited": ui.PreviewImage(edited, cls=cls).values,
                "captions": captions,
            }
        )


def captioned(sources: int, edited: int, controller: Any) -> list[str]:
    """Caption each edited image with its edit, numbered where there are several sources.

    Raises `ValueError` where the images are no block of as many as there are sources per edit.
    """
    edits = edited // sources
    known = None if controller is None else len(controller.branches)
    if edited % sources or known not in (None, edits):
        wanted = "a whole number of" if known is None else f"{known}"
        raise ValueError(
            f"Expected {wanted} edited image(s) per source image, got {edited} of {sources}. "
            "Decode source and edited of one P2P KSampler, with the controller that it had."
        )
    names = [
        f"edit {n + 1}"
        if controller is None
        else caption(controller.source, controller.branches[n])
        for n in range(edits)
    ]
    return [
        f"{name} ({number} of {sources})" if sources > 1 else name
        for name in names
        for number in range(1, sources + 1)
    ]


def caption(source: Prompt, branch: Branch) -> str:
    """Say what a branch changes, as short as can be: "red → blue, striped × −1"."""
    lines = zip(branch.chain, done(source, branch), strict=True)
    said = [line.partition(" · ")[0] for link, line in lines if not isinstance(link, LocalBlend)]
    return ", ".join(said).replace("× -", "× −")
