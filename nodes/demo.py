"""The model that ships with the pack, and pictures of its world."""

from __future__ import annotations

import random

import numpy as np
import torch
from comfy_api.latest import io

from ..p2p_core.demo.joint_architecture import MODELS
from ..p2p_core.demo.scenes import caption, render, sample_scene
from ..p2p_core.hosts.comfyui.demo import empty_latent, wary_of_size
from ..p2p_core.hosts.comfyui.demo_models import load_demo
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
            "as 'a red star on the grass', best at a cfg of 3. Small enough for a CPU; every stock "
            "node works on it.",
            **optional_schema(search_aliases=["prompt to prompt", "demo", "example model"]),
            inputs=[_model_input()],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The network, for a cfg of about 3: of the SD1.x family "
                    "(v-prediction), or of Flux's (flow matching).",
                ),
                io.Clip.Output(
                    display_name="clip", tooltip="The text encoder: CLIP's tokens, 77 of them."
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The autoencoder: 8× down-sampling, 4 latent channels.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="An empty latent of the size that the model knows, 128×128 pixels.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: str = "UNet") -> io.NodeOutput:
        network, clip, vae = load_demo(MODELS[model])
        return io.NodeOutput(wary_of_size(network), clip, vae, {"samples": empty_latent()})


def _model_input() -> io.Combo.Input:
    return io.Combo.Input(
        "model",
        options=list(MODELS),
        default="UNet",
        optional=True,  # graphs that were saved without it keep working
        tooltip="Which network: UNet looks at words by cross-attention, as Stable Diffusion 1.x; "
        "MMDiT has words and picture in one attention, as Flux. They share the text encoder and "
        "the autoencoder.",
    )


class P2PDemoImage(io.ComfyNode):
    """A picture that no model made, to try inversion with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_DemoImage",
            display_name="P2P Demo Image",
            category=CATEGORY,
            description="Draws a picture of the demo model's world, as a stand-in for a photograph "
            "to be inverted and edited.",
            **optional_schema(search_aliases=["prompt to prompt", "demo", "example image"]),
            inputs=[
                # It was called seed, which frontends change after every run. Saved workflows keep
                # their picture: they hold values by place, and this is still the first.
                io.Int.Input(
                    "picture",
                    default=11,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Which picture: every number gives another.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture, 128×128 pixels."),
                io.String.Output(display_name="caption", tooltip="What it shows."),
            ],
        )

    @classmethod
    def execute(cls, picture: int) -> io.NodeOutput:
        rng = random.Random(picture)
        scene = sample_scene(rng)
        image = torch.from_numpy(render(scene).astype(np.float32) / 255)
        return io.NodeOutput(image[None], caption(scene, rng))
