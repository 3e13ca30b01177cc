"""Word weights without an edit, for any sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.blocks import Blocks
from ..p2p_core.edits import Joint
from ..p2p_core.hosts.comfyui.weighting import weigh
from ..p2p_core.notation import parse_factors
from ..p2p_core.schedules import Window
from .common import ADVANCED, CATEGORY, fraction_input, optional_schema


class P2PWordWeights(io.ComfyNode):
    """Encode a prompt whose words weigh more or less, also where the host has no weights.

    Paper section 4, attention re-weighting, without a source.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_WordWeights",
            display_name="P2P Word Weights",
            category=CATEGORY,
            description="A prompt whose words weigh more or less, for any sampler: one image, no "
            "edit. Works inside the model's attention, so also where ComfyUI ignores weights "
            "(Qwen-Image, Z-Image, Lumina2).",
            **optional_schema(
                search_aliases=["prompt weight", "emphasis", "attention weight", "prompt to prompt"]
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled."),
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, weights in brackets: '(green:0.8) bag with (spots:1.25)'. "
                    "The brackets never reach the text encoder. \\( and \\) are brackets as such.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Words of the prompt with factors, instead of brackets or beside them: "
                    "'green: 0.8, spots: 1.25'; 'cat #2' is the second cat. 1 changes nothing, 0 "
                    "takes the word's attention away, negative turns it round.",
                ),
                fraction_input(
                    "start",
                    0.0,
                    "From when the weights act, as a fraction of the sampling steps, 0 to 1.",
                    optional=True,
                    **ADVANCED,
                ),
                fraction_input(
                    "end",
                    1.0,
                    "Until when the weights act, as a fraction of the sampling steps, 0 to 1.",
                    optional=True,
                    **ADVANCED,
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    optional=True,
                    tooltip="In which blocks of a transformer the weights act, such as first 2/3 "
                    "or 20-37. UNets have none to choose from.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The model, which obeys the weights: to the sampler.",
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt with its weights: to the same sampler.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompt: str,
        words: str = "",
        start: float = 0.0,
        end: float = 1.0,
        blocks: str = "all",
    ) -> io.NodeOutput:
        joint = Joint(blocks=Blocks(blocks))
        weights = parse_factors(words, 1.0)
        return io.NodeOutput(*weigh(model, clip, prompt, weights, Window(start, end), joint))
