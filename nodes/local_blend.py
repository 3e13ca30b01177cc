"""The node that keeps an edit to where its words are."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.sampling import unnested
from ..p2p_core.local_blend import BOTH, LATENTS, MOST_SMOOTHING, VALUES, LocalBlend
from ..p2p_core.notation import parse_words
from .common import (
    ADVANCED,
    CATEGORY,
    RESOLUTIONS,
    Edit,
    Link,
    fraction_input,
    linked,
    optional_schema,
    resolution_input,
    sharpen_input,
)

VALUE, OTSU = "value", "Otsu"


class P2PLocalBlend(io.ComfyNode):
    """Keep what lies outside the words' region as it is in the source (the authors' LocalBlend)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_LocalBlend",
            display_name="P2P Local Blend Mask",
            category=CATEGORY,
            description="Makes a mask from the attention of chosen words while sampling runs, and "
            "sets everything outside it back to the source image after every step. The P2P "
            "KSampler gives the mask out.",
            **optional_schema(search_aliases=["prompt to prompt", "attention mask", "background"]),
            inputs=[
                Edit.Input(
                    "edit",
                    optional=True,
                    tooltip="The edits whose reach is limited; without any, the mask does nothing.",
                ),
                io.String.Input(
                    "source_words",
                    default="",
                    tooltip="Words of the source prompt whose place in the source image may "
                    "change, separated by commas: usually the word that is edited. Empty here and "
                    "in edited_words, without a mask: the words that the edits change, and the "
                    "nouns that they stand by.",
                ),
                io.String.Input(
                    "edited_words",
                    default="",
                    tooltip="Words of the edited prompt whose place in the edited image may "
                    "change, separated by commas. Empty here and in source_words, without a mask: "
                    "the words that the edits change, and the nouns that they stand by.",
                ),
                io.String.Input(
                    "subtract_words",
                    default="",
                    tooltip="Words whose place must not change, taken out of the mask: in the "
                    "image of either prompt that has them, separated by commas.",
                    **ADVANCED,
                ),
                fraction_input(
                    "threshold",
                    0.3,
                    "How strong a word's attention must be to count, as a fraction of its maximum, "
                    "0 to 1. Higher makes the mask smaller.",
                ),
                fraction_input(
                    "start",
                    0.2,
                    "After which part of the sampling steps blending begins, 0 to 1. Later leaves "
                    "the edit more freedom for its outline.",
                    **ADVANCED,
                ),
                fraction_input(
                    "softness",
                    0.0,
                    "Width of the ramp around the threshold, 0 to 1: 0 is a hard edge, higher "
                    "fades the mask's edge.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="By how many latent cells the mask is widened (a cell is 8 image "
                    "pixels in Stable Diffusion).",
                    **ADVANCED,
                ),
                resolution_input(),
                io.Combo.Input(
                    "join",
                    options=["intersection", "union"],
                    default="intersection",
                    tooltip="How a connected mask is joined to the words' mask: where both are, or "
                    "where either is. Without words the connected mask is used as it is.",
                    **ADVANCED,
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask of your own of where the image may change (white), any size.",
                ),
                io.Latent.Input(
                    "background",
                    optional=True,
                    tooltip="A latent image to take the source's place outside the mask; noise is "
                    "added to it to fit each step.",
                ),
                io.Combo.Input(
                    "threshold_by",
                    options=[VALUE, OTSU],
                    default=VALUE,
                    optional=True,
                    tooltip="What counts as strong. Value: the threshold above. Otsu: the "
                    "threshold that parts each map best into strong and weak, found at every step "
                    "by Otsu's method; the one above is not used, and maps are not widened by a "
                    "cell first.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.0,
                    min=0.0,
                    max=MOST_SMOOTHING,
                    step=0.1,
                    optional=True,
                    tooltip="By how much the words' maps are blurred before the threshold: the "
                    "width of a Gaussian in cells of the map, 0 to 16. 0 is none; 1 joins a mask "
                    "that is in pieces.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "keep_background",
                    options=[LATENTS, VALUES, BOTH],
                    default=LATENTS,
                    optional=True,
                    tooltip="How what lies outside the mask stays the source's. Latents: it is set "
                    "back after every step. Values: the edited image's self-attention (in Flux and "
                    "the like, its attention) finds the source's values there, and nothing is set "
                    "back, which leaves no seam and keeps less exactly. Both: one and the other.",
                    **ADVANCED,
                ),
                sharpen_input(),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with its local blend: to another edit node or to a P2P "
                    "Controller.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else an equal node elsewhere gives its own id, from the cache
        )

    @classmethod
    def execute(
        cls,
        source_words: str,
        edited_words: str,
        subtract_words: str,
        threshold: float,
        start: float,
        softness: float,
        grow: int,
        resolution: str,
        join: Any,
        edit: tuple[Link, ...] = (),
        mask: Any = None,
        background: dict[str, Any] | None = None,
        threshold_by: str = VALUE,
        smoothing: float = 0.0,
        keep_background: str = LATENTS,
        sharpen: int = 0,
    ) -> io.NodeOutput:
        blend = LocalBlend(
            parse_words(source_words),
            parse_words(edited_words),
            parse_words(subtract_words),
            None if threshold_by == OTSU else threshold,
            start,
            softness,
            grow,
            mask,
            join,
            None if background is None else unnested(background["samples"]),
            RESOLUTIONS[resolution],
            smoothing,
            keep_background,
            sharpen,
        )
        return linked(edit, blend, cls)
