"""The node that brings a source prompt and its edits together."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..p2p_core.alignment import changes, describe
from ..p2p_core.controller import Branch, ChainError
from ..p2p_core.edits import Reweight
from ..p2p_core.edits.mix import Mix
from ..p2p_core.hosts.comfyui.conditioning import build_controller
from ..p2p_core.local_blend import LocalBlend
from ..p2p_core.tokens import Prompt
from .common import CATEGORY, NOTHING, Controller, Edit, Link, id_of, optional_schema, show

MAX_EDITS = 8


class P2PController(io.ComfyNode):
    """Resolve edits against a source prompt and encode all prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_Controller",
            display_name="P2P Controller (Prompt-to-Prompt)",
            category=CATEGORY,
            description="The source prompt and up to 8 edits of it. Each edit chain becomes an "
            "edited prompt, and each edited prompt an image beside the source image. Without edits "
            "the source image is sampled alone.",
            **optional_schema(
                search_aliases=[
                    "prompt to prompt",
                    "prompt2prompt",
                    "p2p",
                    "edit image",
                    "cross attention control",
                ]
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the source image shows. The edits change words of this text.",
                ),
                *(
                    Edit.Input(
                        f"edit_{number}",
                        optional=True,
                        tooltip=f"Edited image {number}: a chain of edits. "
                        "All edits start from the source prompt.",
                    )
                    for number in range(1, MAX_EDITS + 1)
                ),
            ],
            outputs=[
                Controller.Output(
                    display_name="controller",
                    tooltip="Source prompt, edited prompts and how attention is shared: "
                    "to a P2P KSampler.",
                ),
                io.String.Output(
                    display_name="edited_prompts",
                    tooltip="The edited prompts as the model reads them, a text for each edit: a "
                    "CLIP Text Encode connected here encodes each by itself.",
                    is_output_list=True,
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompts' conditioning, to send through other nodes (ControlNet, "
                    "areas, masks, timestep ranges) and then to the positive input of a P2P "
                    "KSampler or P2P Guider. Not needed without such nodes; other samplers refuse "
                    "it.",
                ),
                io.String.Output(
                    display_name="alignment",
                    tooltip="What became of the source prompt's words, one edit a line: kept, "
                    "swapped (→), added (+) and removed (−) words; of a long prompt, the changed "
                    "ones with two words around.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: Any, source_prompt: str, **edits: Any) -> io.NodeOutput:
        chains: dict[str, tuple[Link, ...]] = {}
        for name in (f"edit_{n}" for n in range(1, MAX_EDITS + 1)):
            chain = edits.get(name) or ()
            if all(isinstance(link.edit, LocalBlend) for link in chain):
                for link in chain:
                    show("no edit comes before this mask, and so it does nothing", link.node)
            else:
                chains[name] = chain
        bare = [tuple(link.edit for link in chain) for chain in chains.values()]
        try:
            encoded = build_controller(clip, source_prompt, bare)
        except ChainError as error:
            name = list(chains)[error.chain]
            raise ValueError(blamed(name, chains[name], error)) from error
        branches = encoded.controller.branches
        texts = [branch.edited.text for branch in branches]
        alignments = [
            describe(encoded.controller.source, branch.edited, branch.spans) for branch in branches
        ]
        show("\n".join(texts) or "no edit: the source image alone", id_of(cls))
        for chain, branch in zip(chains.values(), branches, strict=True):
            for link, said in zip(chain, done(encoded.controller.source, branch), strict=True):
                show(said, link.node)
        return io.NodeOutput(
            encoded,
            texts or NOTHING,
            encoded.conditioning,
            "\n".join(alignments) or "no edit: the source image alone",
        )


def done(source: Prompt, branch: Branch) -> list[str]:
    """Say what each link of a branch's chain does, in a line."""
    lines: list[str] = []
    index = 0
    for edit in branch.chain:
        if isinstance(edit, LocalBlend):
            lines.append(masked(branch.blend))
            continue
        if isinstance(edit, Reweight):
            lines.append(", ".join(f"{phrase} × {factor:g}" for phrase, factor in edit.weights))
        else:
            by = f"by {edit.degree:g}: " if isinstance(edit, Mix) else ""
            lines.append(by + changes(source, branch.edited, branch.spans, index))
        index += 1
    return lines


def masked(blend: LocalBlend | None) -> str:
    """Say where an edit may change the image, in a line."""
    if blend is None:
        return "no word changed, and so nothing to keep within"
    words = ", ".join(dict.fromkeys((*blend.source_words, *blend.edited_words)))
    own = "your mask" if blend.user_mask is not None else ""
    joint = " and " if blend.join == "intersection" else " or "
    less = f", not {', '.join(blend.subtract_words)}" if blend.subtract_words else ""
    return f"within {joint.join(part for part in (words, own) if part)}{less}"


def blamed(name: str, chain: tuple[Link, ...], error: ChainError) -> str:
    """Say what is wrong with the edit at the input `name`, and at which node.

    An error belongs to the node that was running when it came, and an edit's node has run before
    its prompt was known: all that can be done for it is to write under it.
    """
    if error.link is None:
        return f"{name}: {error}"
    link = chain[error.link]
    show(f"{error}", link.node)
    return f"{name}, {link.kind}: {error}"
