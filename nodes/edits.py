"""Nodes that say what to change. Each takes a chain of edits and returns it one edit longer."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.edits import SelfInjection, WordSwap
from ..p2p_core.schedules import Window
from .common import CATEGORY, Edit, optional_schema


def window_inputs(cross_end: float, self_end: float) -> list[Any]:
    """The inputs that say when attention is taken from the source.

    They are the paper's cross_replace_steps and self_replace_steps.
    """

    def fraction(name: str, default: float, tooltip: str) -> Any:
        return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)

    return [
        fraction(
            "cross_replace_end",
            cross_end,
            "Until when the edited image takes the source's cross-attention (what sits where), "
            "as a fraction of the sampling steps, 0 to 1. Higher keeps more of the source's "
            "layout, lower lets the new words reshape it.",
        ),
        fraction(
            "self_replace_end",
            self_end,
            "Until when the edited image takes the source's self-attention (outlines and texture), "
            "as a fraction of the sampling steps, 0 to 1. Higher keeps outlines; lower where the "
            "new object has another shape.",
        ),
        fraction(
            "cross_replace_start",
            0.0,
            "From when the source's cross-attention is taken, as a fraction of the sampling steps, "
            "0 to 1. 0 is right for nearly everything.",
        ),
        fraction(
            "self_replace_start",
            0.0,
            "From when the source's self-attention is taken, as a fraction of the sampling steps, "
            "0 to 1.",
        ),
        io.Float.Input(
            "self_replace_reach",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Which layers take the source's self-attention: those whose side is up to this "
            "fraction of the latent's side, 0.01 to 1. 1 is every layer; 0.25 is the paper's "
            "choice for 512-pixel Stable Diffusion (16×16 layers and below), which leaves fine "
            "texture free.",
        ),
    ]


def self_injection(start: float, end: float, reach: float) -> SelfInjection:
    """From a node's inputs; raises `ValueError` as `Window` and `SelfInjection` do."""
    return SelfInjection(Window(start, end), reach)


class P2PWordSwap(io.ComfyNode):
    """Swap words of the prompt; the new words stand where the old ones stood.

    Paper section 4, word swap.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_WordSwap",
            display_name="P2P Word Swap",
            category=CATEGORY,
            description="Replaces words of the source prompt and keeps the image's layout: the new "
            "words take over the attention of the old ones. Chain several to swap several words in "
            "one image.",
            **optional_schema(search_aliases=["prompt to prompt", "replace word", "edit prompt"]),
            inputs=[
                io.String.Input(
                    "words",
                    default="",
                    tooltip="The word or words to replace, as they stand in the prompt. "
                    "Upper and lower case are alike.",
                ),
                io.String.Input(
                    "replacement",
                    default="",
                    tooltip="What stands there instead: any number of words. "
                    "Empty removes the words.",
                ),
                io.Int.Input(
                    "occurrence",
                    default=1,
                    min=1,
                    max=999,
                    tooltip="Which one is meant if the words stand in the prompt more than once, "
                    "counting from 1.",
                ),
                *window_inputs(cross_end=0.8, self_end=0.4),
                Edit.Input(
                    "edit",
                    optional=True,
                    tooltip="Edits to make before this one, from another edit node. "
                    "Leave free to start a chain.",
                ),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with this swap at its end: to another edit node or to a "
                    "P2P Controller.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        words: str,
        replacement: str,
        occurrence: int,
        cross_replace_end: float,
        self_replace_end: float,
        cross_replace_start: float,
        self_replace_start: float,
        self_replace_reach: float,
        edit: tuple[Any, ...] = (),
    ) -> io.NodeOutput:
        swap = WordSwap(
            words,
            replacement,
            occurrence,
            cross=Window(cross_replace_start, cross_replace_end),
            self_injection=self_injection(self_replace_start, self_replace_end, self_replace_reach),
        )
        return io.NodeOutput((*edit, swap))
