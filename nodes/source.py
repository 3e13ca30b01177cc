"""The node that samples a source by itself, so that edits of it cost less."""

from __future__ import annotations

from typing import Any

import latent_preview
from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.sourcing import sample_source
from .common import CATEGORY, Inversion, id_of, optional_schema, show
from .sampling import denoise_input, noise_inputs


class P2PSampleSource(io.ComfyNode):
    """Sample the source image once, for all edits that will be made of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_SampleSource",
            display_name="P2P Sample Source",
            category=CATEGORY,
            description="Samples the source image as the stock KSampler does, and keeps its path. "
            "A P2P KSampler that gets it as its inversion samples the edits alone, and the source "
            "only where they look at it. Change edits as often as you like: this is not run again.",
            **optional_schema(
                search_aliases=["prompt to prompt", "known source", "faster edits", "re-edit"]
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to edit with."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the source image shows. Connect the output of this name to the "
                    "P2P Controller, so that both have the same.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="What the source image should not show. Give the P2P KSampler the "
                    "same.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to denoise, one a source image: an empty latent, or an "
                    "encoded image with denoise below 1.",
                ),
                *noise_inputs(),
                denoise_input(),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The source prompt's conditioning after other nodes had it, such as "
                    "Apply ControlNet, where the edits' goes through them as well. Leave "
                    "unconnected otherwise.",
                ),
            ],
            outputs=[
                Inversion.Output(
                    display_name="inversion",
                    tooltip="The source's path, to a P2P KSampler, P2P KSampler (Advanced) or P2P "
                    "Guider with the same settings.",
                ),
                io.String.Output(
                    display_name="source_prompt", tooltip="To the P2P Controller's source prompt."
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="The latent image, to the sampler's."
                ),
                io.Latent.Output(
                    display_name="source", tooltip="The source image's latent, to VAE Decode."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        source_prompt: str,
        negative: Any,
        latent_image: dict[str, Any],
        **settings: Any,
    ) -> io.NodeOutput:
        made = sample_source(
            model,
            clip,
            source_prompt,
            negative=negative,
            latent=latent_image,
            callback=latent_preview.prepare_callback(model, settings["steps"]),
            **settings,
        )
        path = made.found.trajectory
        show(f"{len(path)} latents kept, {path.nbytes / 2**20:.1f} MiB", id_of(cls))
        source = {key: v for key, v in latent_image.items() if not key.startswith("downscale")}
        return io.NodeOutput(
            made, made.prompt, latent_image, {**source, "samples": made.reconstruction}
        )
