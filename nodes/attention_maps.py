"""The node that shows which pixels looked at which words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..p2p_core.drawing import VIRIDIS, draw, per_row, tiles
from ..p2p_core.hosts.comfyui.viewing import look
from ..p2p_core.notation import parse_words
from ..p2p_core.schedules import Window
from ..p2p_core.viewing import row_names
from .common import (
    ADVANCED,
    CATEGORY,
    RESOLUTIONS,
    Run,
    fraction_input,
    optional_schema,
    resolution_input,
    sharpen_input,
)

SCALES = ("each its own", "common")


class P2PAttentionMaps(io.ComfyNode):
    """Word maps over the images (paper figures 3 and 4)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_AttentionMaps",
            display_name="P2P Attention Maps",
            category=CATEGORY,
            description="Shows where the source and the edited images look at each word: choose "
            "a word and a step on the node. The run is sampled once more for it.",
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
                io.Combo.Input(
                    "scale",
                    options=list(SCALES),
                    default=SCALES[0],
                    optional=True,
                    tooltip="What the brightest colour is in the drawings: each map's own maximum, "
                    "or that of all words and rows, so that they can be compared.",
                    **ADVANCED,
                ),
                sharpen_input(),
            ],
            is_output_node=True,
            outputs=[
                io.Image.Output(
                    display_name="heatmaps",
                    tooltip="One image for every word and row, both written above it: yellow "
                    "where the image looks at the word, violet where it does not.",
                ),
                io.Mask.Output(
                    display_name="maps",
                    tooltip="The same maps without image or text, each divided by its maximum, at "
                    "the attention layer's own resolution.",
                ),
                io.Image.Output(
                    display_name="steps",
                    tooltip="One strip for every word and row: the map as it was at up to 8 of the "
                    "steps, first to last, with their numbers.",
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
        scale: str = SCALES[0],
        sharpen: int = 0,
    ) -> io.NodeOutput:
        seen = look(run, parse_words(words), RESOLUTIONS[resolution], Window(start, end), sharpen)
        rows = run.rows
        images = [
            *per_row(source_images, rows.sources, "source"),
            *per_row(edited_images, rows.total - rows.sources, "edited"),
        ]
        names = row_names(rows)
        drawings = draw(seen, images, names, common=scale == SCALES[1])
        shown = tiles(seen)
        return io.NodeOutput(
            drawings.heatmaps,
            drawings.maps,
            drawings.steps,
            ui={
                "p2p_maps": [
                    {"row": one.row, "word": one.word, "peaks": peaks, "tile": tile}
                    for one, peaks, tile in zip(
                        seen, shown.peaks, _kept(shown.pictures), strict=True
                    )
                ],
                "p2p_rows": [
                    {"name": name, "image": None if image is None else _kept(image[None])[0]}
                    for name, image in zip(names, images, strict=True)
                ],
                "p2p_steps": shown.numbers,
                "p2p_colours": list(VIRIDIS),
            },
        )


def _kept(pictures: Any) -> list[Any]:
    """Keep pictures for the canvas for as long as the host runs; gives what it asks for them."""
    return list(ui.PreviewImage(pictures).values)
