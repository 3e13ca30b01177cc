"""The node that shows which pixels looked at which words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.drawing import draw, per_row
from ..p2p_core.hosts.comfyui.viewing import look
from ..p2p_core.notation import parse_words
from ..p2p_core.schedules import Window
from .common import (
    ADVANCED,
    CATEGORY,
    RESOLUTIONS,
    Run,
    fraction_input,
    optional_schema,
    resolution_input,
)


class P2PAttentionMaps(io.ComfyNode):
    """Word maps over the images (paper figures 3 and 4)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_AttentionMaps",
            display_name="P2P Attention Maps",
            category=CATEGORY,
            description="Shows where the source and the edited images look at each word. The run "
            "is sampled once more for it, so it costs nothing where it is not connected.",
            **optional_schema(
                search_aliases=["prompt to prompt", "cross attention maps", "heatmap", "DAAM"]
            ),
            inputs=[
                Run.Input("run", tooltip="The run to look at, from a P2P KSampler."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases to show, separated by commas. "
                    "Empty shows every word of every prompt.",
                ),
                resolution_input(),
                fraction_input(
                    "start",
                    0.0,
                    "From when maps are taken, as a fraction of the sampling steps, 0 to 1.",
                    **ADVANCED,
                ),
                fraction_input(
                    "end",
                    1.0,
                    "Until when maps are taken, as a fraction of the sampling steps, 0 to 1.",
                    **ADVANCED,
                ),
                io.Image.Input(
                    "source_images",
                    optional=True,
                    tooltip="The decoded source images, to lay the maps over.",
                ),
                io.Image.Input(
                    "edited_images",
                    optional=True,
                    tooltip="The decoded edited images, to lay the maps over.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heatmaps",
                    tooltip="One image for every word and row, the word written on it: bright "
                    "where the image looks at the word.",
                ),
                io.Mask.Output(
                    display_name="maps",
                    tooltip="The same maps without image or text, each divided by its maximum, at "
                    "the attention layer's own resolution.",
                ),
                io.Image.Output(
                    display_name="steps",
                    tooltip="One strip for every word and row: the map as it was at up to 8 of the "
                    "steps, first to last.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        run: Any,
        words: str,
        resolution: str,
        start: float,
        end: float,
        source_images: Any = None,
        edited_images: Any = None,
    ) -> io.NodeOutput:
        seen = look(run, parse_words(words), RESOLUTIONS[resolution], Window(start, end))
        rows = run.rows
        images = [
            *per_row(source_images, rows.sources, "source"),
            *per_row(edited_images, rows.total - rows.sources, "edited"),
        ]
        drawings = draw(seen, images)
        return io.NodeOutput(drawings.heatmaps, drawings.maps, drawings.steps)
