"""The node that loads the model that ships with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.demo import load_demo
from .common import CATEGORY, optional_schema


class P2PDemoCheckpoint(io.ComfyNode):
    """A small text-to-image model of coloured shapes, to try the pack without a download."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_DemoCheckpoint",
            display_name="P2P Demo Checkpoint",
            category=CATEGORY,
            description="The demo model that ships with the pack: 128×128 pictures of shapes, such "
            "as 'a red star on the grass'. Small enough for a CPU; every stock node works on it.",
            **optional_schema(search_aliases=["prompt to prompt", "demo", "example model"]),
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The diffusion model (v-prediction, SD1.x family).",
                ),
                io.Clip.Output(
                    display_name="clip", tooltip="The text encoder: CLIP's tokens, 77 of them."
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The autoencoder: 8× down-sampling, 4 latent channels.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo())
