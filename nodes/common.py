"""Socket types and schema helpers that the nodes share."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer

from ..p2p_core.attention_maps import MOST_SHARPENING

Edit = io.Custom("P2P_EDIT")
"""A chain of edits: a tuple of `Link`s, with at most one `LocalBlend` among them."""

Controller = io.Custom("P2P_CONTROLLER")
"""A source prompt with its edited prompts: `p2p_core.hosts.comfyui.EncodedController`."""

Run = io.Custom("P2P_RUN")
"""A sampling run, to be looked at: `p2p_core.hosts.comfyui.viewing.Run`."""

Inversion = io.Custom("P2P_INVERSION")
"""How to sample a given image: `p2p_core.inversion.record.Inversion`."""

CATEGORY = "prompt-to-prompt"


@dataclass(frozen=True)
class Link:
    """One edit of a chain, and the id of the node that made it, to be told what became of it."""

    edit: Any
    """A `p2p_core.edits.Edit` or a `LocalBlend`."""
    node: str
    kind: str
    """What the node is called."""


def id_of(node: type[io.ComfyNode]) -> str:
    """Find the id in the graph of a node that runs; empty where no host runs it."""
    hidden: Any = node.hidden
    return "" if hidden is None else str(hidden.unique_id)


def linked(chain: tuple[Link, ...], edit: Any, node: type[io.ComfyNode]) -> io.NodeOutput:
    """Make a node's output: the chain that came in, with its own edit at the end."""
    kind = node.define_schema().display_name.removeprefix("P2P ").partition(" (")[0]
    return io.NodeOutput((*chain, Link(edit, id_of(node), kind)))


RESOLUTIONS: dict[str, float | None] = {
    "automatic": None,
    "1": 1.0,
    "1/2": 0.5,
    "1/4": 0.25,
    "1/8": 0.125,
}
"""Which layers' maps are looked at: their side as a fraction of the latent's."""


def optional_schema(**fields: Any) -> dict[str, Any]:
    """Those of the schema's fields that this host knows: older ones lack search aliases."""
    known = io.Schema.__dataclass_fields__
    return {key: value for key, value in fields.items() if key in known}


ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in signature(io.Input.__init__).parameters else {}
)
"""Given to an input that is folded away until it is asked for; older hosts show all inputs."""

FIXED: Any = getattr(getattr(io, "ControlAfterGenerate", None), "fixed", True)
"""What becomes of a seed after a run: nothing, so that an edit is compared with the same source.

Older hosts know no more than whether there is such a choice, and their frontend begins with
"randomize". The choice itself stays there: saved workflows have a value for it behind the seed's.
"""


NOTHING = ExecutionBlocker(None)
"""An output that is not there: what is connected to it does not run, without an error."""


def show(text: str, node: str) -> None:
    """Write a line under a node, where there is a browser to show it."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node:
        server.send_progress_text(text, node)


def resolution_input() -> Any:
    return io.Combo.Input(
        "resolution",
        options=list(RESOLUTIONS),
        default="automatic",
        tooltip="Which attention layers to look at: those whose side is this fraction of the "
        "latent's. Automatic takes the coarsest ones of at least 16×16 cells, as the paper does.",
        **ADVANCED,
    )


def sharpen_input() -> Any:
    return io.Int.Input(
        "sharpen",
        default=0,
        min=0,
        max=MOST_SHARPENING,
        optional=True,
        tooltip="How often the words' maps are sharpened by the model's self-attention, which "
        "carries them to what looks alike, 0 to 8: 0 is not at all. Each costs one attention call "
        "in each layer that is looked at.",
        **ADVANCED,
    )


def fraction_input(name: str, default: float, tooltip: str, **more: Any) -> Any:
    """Make an input for a number from 0 to 1."""
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **more
    )
