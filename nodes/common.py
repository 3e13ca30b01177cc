"""Socket types and schema helpers that the nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

Edit = io.Custom("P2P_EDIT")
"""A chain of edits: a tuple of `p2p_core.edits.Edit`."""

Controller = io.Custom("P2P_CONTROLLER")
"""A source prompt with its edited prompts: `p2p_core.hosts.comfyui.EncodedController`."""

CATEGORY = "prompt-to-prompt"


def optional_schema(**fields: Any) -> dict[str, Any]:
    """Those of the schema's fields that this host knows: older ones lack search aliases."""
    known = io.Schema.__dataclass_fields__
    return {key: value for key, value in fields.items() if key in known}
