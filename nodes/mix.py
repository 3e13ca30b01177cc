"""The node that swaps words by degree."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_core.edits.mix import Mix
from .common import CATEGORY, Edit, Link, fraction_input, linked, optional_schema
from .edits import (
    chain_input,
    occurrence_input,
    schedule,
    self_injection,
    window_inputs,
    word_window_inputs,
)
from .joint import joint, joint_inputs


class P2PMix(io.ComfyNode):
    """Swap words by degree: between the old word's picture and the new one's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Mix",
            display_name="P2P Mix",
            category=CATEGORY,
            description="A word swap by degree: old and new words share one place in the image, as "
            "much of each as you say. 0 is the source, 1 is a Word Swap.",
            **optional_schema(search_aliases=["prompt to prompt", "blend words", "morph"]),
            inputs=[
                io.String.Input(
                    "words",
                    default="",
                    tooltip="The word or words to mix with others, as they stand in the prompt. "
                    "Upper and lower case are alike.",
                ),
                io.String.Input(
                    "replacement",
                    default="",
                    tooltip="What is mixed in: any number of words.",
                ),
                fraction_input(
                    "degree",
                    0.5,
                    "How much of the new words, 0 to 1: 0 is the source's words alone, 1 is a Word "
                    "Swap, between them attention and meaning are shared out.",
                ),
                occurrence_input(),
                *window_inputs(cross_end=0.8, self_end=0.4),
                chain_input(),
                *word_window_inputs(),
                *joint_inputs(),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with this mix at its end: to another edit node or to a P2P "
                    "Controller.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else an equal node elsewhere gives its own id, from the cache
        )

    @classmethod
    def execute(
        cls,
        words: str,
        replacement: str,
        degree: float,
        occurrence: int,
        cross_replace_end: float,
        self_replace_end: float,
        cross_replace_start: float,
        self_replace_start: float,
        self_replace_reach: float,
        edit: tuple[Link, ...] = (),
        word_windows: str = "",
        cross_replace_fade: float = 0.0,
        **where: str,
    ) -> io.NodeOutput:
        mix = Mix(
            words,
            replacement,
            degree,
            occurrence,
            schedule=schedule(
                cross_replace_start, cross_replace_end, cross_replace_fade, word_windows
            ),
            self_injection=self_injection(self_replace_start, self_replace_end, self_replace_reach),
            joint=joint(**where),
        )
        return linked(edit, mix, cls)
