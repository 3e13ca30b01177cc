"""Nodes that say what to change. Each takes a chain of edits and returns it one edit longer."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.edits import AUTOMATIC, FACTORS_ACT, Refine, Reweight, SelfInjection, WordSwap
from ..p2p_core.notation import parse_factors, parse_windows
from ..p2p_core.presets import PRESETS, Preset
from ..p2p_core.schedules import Schedule, Window
from .common import ADVANCED, CATEGORY, Edit, Link, fraction_input, linked, optional_schema
from .joint import joint, joint_inputs

FOLLOW, OWN = "as the edits before it", "own window"
CUSTOM = "custom"


def window_inputs(cross_end: float, self_end: float) -> list[Any]:
    """Make the inputs that say when attention is taken from the source.

    They are the paper's cross_replace_steps and self_replace_steps.
    """
    return [
        fraction_input(
            "cross_replace_end",
            cross_end,
            "Until when the edited image takes the source's cross-attention (what sits where), "
            "as a fraction of the sampling steps, 0 to 1. Higher keeps more of the source's "
            "layout, lower lets the new words reshape it.",
        ),
        *self_inputs(self_end, ["self_replace_end"]),
        fraction_input(
            "cross_replace_start",
            0.0,
            "From when the source's cross-attention is taken, as a fraction of the sampling steps, "
            "0 to 1. 0 is right for nearly everything.",
            **ADVANCED,
        ),
        *self_inputs(self_end, ["self_replace_start", "self_replace_reach"]),
    ]


def self_inputs(end: float, names: list[str]) -> list[Any]:
    """Those of the inputs for self-attention injection that are named."""
    inputs = {
        "self_replace_end": fraction_input(
            "self_replace_end",
            end,
            "Until when the edited image takes the source's self-attention (outlines and texture), "
            "as a fraction of the sampling steps, 0 to 1. Higher keeps outlines; lower where the "
            "new object has another shape.",
            **ADVANCED,
        ),
        "self_replace_start": fraction_input(
            "self_replace_start",
            0.0,
            "From when the source's self-attention is taken, as a fraction of the sampling steps, "
            "0 to 1.",
            **ADVANCED,
        ),
        "self_replace_reach": io.Float.Input(
            "self_replace_reach",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Which layers take the source's self-attention: those whose side is up to this "
            "fraction of the latent's side. 0 is automatic: layers of up to 32×32 cells, as the "
            "authors have it for photographs, which leaves fine texture free. 1 is every layer; "
            "0.25 is the paper's choice for 512-pixel Stable Diffusion (16×16 cells and below).",
            **ADVANCED,
        ),
    }
    return [inputs[name] for name in names]


def word_window_inputs(only: str = "") -> list[Any]:
    """Make the inputs that give single words their own windows, and windows soft ends.

    `only` is a sentence that says when they apply.
    """
    return [
        io.String.Input(
            "word_windows",
            default="",
            multiline=True,
            optional=True,
            tooltip="Windows of their own for single words of the edited prompt, such as "
            "'butterfly: 0-1', one a line, ends as fractions of the sampling steps. All other "
            "words follow the window above. 'butterfly: 0-1 fade 0.2' ends softly; 'cat #2' is the "
            "second cat." + only,
            **ADVANCED,
        ),
        fraction_input(
            "cross_replace_fade",
            0.0,
            "How softly the window above ends: the part of the sampling steps, 0 to 1, over which "
            "it lets go. 0 is a hard end." + only,
            optional=True,
            **ADVANCED,
        ),
    ]


def preset_input() -> Any:
    combo: Any = io.Combo.Input(
        "preset",
        options=[CUSTOM, *PRESETS],
        default=CUSTOM,
        optional=True,
        tooltip="What the edit is to do, which says until when it takes the source's attention: "
        "it then has windows of its own instead of cross_replace_end and self_replace_end. "
        "Custom is what those say.",
        **ADVANCED,
    )
    combo.extra_dict = {"windows": {name: preset_ends(one) for name, one in PRESETS.items()}}
    return combo


def preset_ends(preset: Preset) -> dict[str, float]:
    """The inputs that a preset stands for, which the canvas fills in."""
    return {"cross_replace_end": preset.cross_end, "self_replace_end": preset.self_end}


def ends(preset: str, cross: float, own: float) -> tuple[float, float]:
    """Until when words, and until when outlines, are the source's: a preset's ends, or a node's."""
    chosen = PRESETS.get(preset)
    return (chosen.cross_end, chosen.self_end) if chosen else (cross, own)


def chain_input() -> Any:
    return Edit.Input(
        "edit",
        optional=True,
        tooltip="Edits to make before this one, from another edit node. "
        "Leave unconnected to start a chain.",
    )


def schedule(start: float, end: float, fade: float, word_windows: str) -> Schedule:
    """Make it of a node's inputs; raises `ValueError` as `Window` and `parse_windows` do."""
    return Schedule(Window(start, end, fade), parse_windows(word_windows))


def occurrence_input() -> Any:
    return io.Int.Input(
        "occurrence",
        default=1,
        min=1,
        max=999,
        tooltip="Which one is meant if the words stand in the prompt more than once, "
        "counting from 1; 'cat #2' as the words says so, too.",
        **ADVANCED,
    )


def self_injection(start: float, end: float, reach: float) -> SelfInjection:
    """Make it of a node's inputs, where a reach of 0 is automatic.

    Raises `ValueError` as `Window` and `SelfInjection` do.
    """
    return SelfInjection(Window(start, end), reach or None)


class P2PWordSwap(io.ComfyNode):
    """Swap words of the prompt; the new words stand where the old ones stood.

    Paper section 4, word swap.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_WordSwap",
            display_name="P2P Word Swap (Prompt-to-Prompt)",
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
                occurrence_input(),
                *window_inputs(cross_end=0.8, self_end=0.4),
                chain_input(),
                *word_window_inputs(),
                *joint_inputs(),
                preset_input(),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with this swap at its end: to another edit node or to a "
                    "P2P Controller.",
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
        occurrence: int,
        cross_replace_end: float,
        self_replace_end: float,
        cross_replace_start: float,
        self_replace_start: float,
        self_replace_reach: float,
        edit: tuple[Link, ...] = (),
        word_windows: str = "",
        cross_replace_fade: float = 0.0,
        preset: str = CUSTOM,
        **where: str,
    ) -> io.NodeOutput:
        cross_end, self_end = ends(preset, cross_replace_end, self_replace_end)
        swap = WordSwap(
            words,
            replacement,
            occurrence,
            schedule=schedule(cross_replace_start, cross_end, cross_replace_fade, word_windows),
            self_injection=self_injection(self_replace_start, self_end, self_replace_reach),
            joint=joint(**where),
        )
        return linked(edit, swap, cls)


class P2PRefine(io.ComfyNode):
    """Give the edited prompt whole; words that it shares with the source stay put.

    Paper section 4, prompt refinement.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Refine",
            display_name="P2P Refine",
            category=CATEGORY,
            description="Takes the edited prompt whole and aligns it with the source prompt: words "
            "that both have keep the source's attention, added words are free. Adding, swapping "
            "and removing words in one go.",
            **optional_schema(search_aliases=["prompt to prompt", "add words", "edited prompt"]),
            inputs=[
                io.String.Input(
                    "edited_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The whole prompt of the edited image: the source prompt with words "
                    "added, changed or left out.",
                ),
                io.Boolean.Input(
                    "inject_swapped",
                    default=True,
                    tooltip="Whether words in the place of others take their attention, as in a "
                    "word swap. Off: they attend for themselves and may go elsewhere.",
                    **ADVANCED,
                ),
                *window_inputs(cross_end=0.8, self_end=0.4),
                chain_input(),
                *word_window_inputs(),
                *joint_inputs(),
                preset_input(),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with this refinement at its end: to another edit node or to "
                    "a P2P Controller.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else an equal node elsewhere gives its own id, from the cache
        )

    @classmethod
    def execute(
        cls,
        edited_prompt: str,
        inject_swapped: bool,
        cross_replace_end: float,
        self_replace_end: float,
        cross_replace_start: float,
        self_replace_start: float,
        self_replace_reach: float,
        edit: tuple[Link, ...] = (),
        word_windows: str = "",
        cross_replace_fade: float = 0.0,
        preset: str = CUSTOM,
        **where: str,
    ) -> io.NodeOutput:
        cross_end, self_end = ends(preset, cross_replace_end, self_replace_end)
        refine = Refine(
            edited_prompt,
            inject_swapped,
            schedule=schedule(cross_replace_start, cross_end, cross_replace_fade, word_windows),
            self_injection=self_injection(self_replace_start, self_end, self_replace_reach),
            joint=joint(**where),
        )
        return linked(edit, refine, cls)


class P2PReweight(io.ComfyNode):
    """Turn words up or down (paper section 4, attention re-weighting)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Reweight",
            display_name="P2P Reweight",
            category=CATEGORY,
            description="A fader for words: multiplies the attention that the image pays to them. "
            "After another edit it acts on the edited prompt; alone on the source prompt.",
            **optional_schema(
                search_aliases=["prompt to prompt", "equalizer", "fader", "word weight"]
            ),
            inputs=[
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    tooltip="Words or phrases of the edited prompt, separated by commas or lines. "
                    "One may have a factor of its own, any number: 'fluffy: 3, tail=-1.5'. "
                    "'cat #2' is the second cat.",
                ),
                io.Float.Input(
                    "factor",
                    default=1.5,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="What the words' attention is multiplied with, -2 to 2: above 1 is "
                    "more, below 1 less, 0 none, negative the opposite.",
                ),
                io.Combo.Input(
                    "window",
                    options=[FOLLOW, OWN],
                    default=FOLLOW,
                    tooltip="When the factors act. As the edits before it: as long as those take "
                    "the source's cross-attention, as in the paper; alone all through. Own window: "
                    "from start to end below.",
                    **ADVANCED,
                ),
                fraction_input(
                    "window_start",
                    0.0,
                    "From when an own window acts, as a fraction of the sampling steps, 0 to 1.",
                    **ADVANCED,
                ),
                fraction_input(
                    "window_end",
                    1.0,
                    "Until when an own window acts, as a fraction of the sampling steps, 0 to 1.",
                    **ADVANCED,
                ),
                fraction_input(
                    "self_replace_end",
                    0.4,
                    "Only where no Word Swap or Refine is in the chain: until when the edited "
                    "image takes the source's self-attention (outlines and texture), as a fraction "
                    "of the sampling steps, 0 to 1.",
                    **ADVANCED,
                ),
                chain_input(),
                *word_window_inputs(" Only with an own window."),
                *joint_inputs(),
                io.Combo.Input(
                    "factors_act",
                    options=list(FACTORS_ACT),
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="Where factors are multiplied: after the softmax as in the paper, or "
                    "as if before it, so that a pixel's attention still adds up to 1. Automatic is "
                    "the paper's where text has its own attention (Stable Diffusion, Wan), and in "
                    "joint attention (Flux, SD3) before, but after where a factor is negative.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                Edit.Output(
                    display_name="edit",
                    tooltip="The chain with this reweighting at its end: to another edit node or "
                    "to a P2P Controller.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else an equal node elsewhere gives its own id, from the cache
        )

    @classmethod
    def execute(
        cls,
        words: str,
        factor: float,
        window: str,
        window_start: float,
        window_end: float,
        self_replace_end: float,
        edit: tuple[Link, ...] = (),
        word_windows: str = "",
        cross_replace_fade: float = 0.0,
        factors_act: str = AUTOMATIC,
        **where: str,
    ) -> io.NodeOutput:
        own = window == OWN
        if not own and (word_windows.strip() or cross_replace_fade):
            raise ValueError(
                f"Expected the window {OWN!r} for word windows or a fade, got {window!r}. "
                f"Set window to {OWN!r}, or clear word_windows and cross_replace_fade."
            )
        schedule = Schedule(
            Window(window_start, window_end, cross_replace_fade), parse_windows(word_windows)
        )
        reweight = Reweight(
            parse_factors(words, factor),
            schedule if own else None,
            SelfInjection(Window(0.0, self_replace_end)),
            joint(**where),
            FACTORS_ACT[factors_act],
        )
        return linked(edit, reweight, cls)
