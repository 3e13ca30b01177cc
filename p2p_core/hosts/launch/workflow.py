"""Workflows as the canvas saves them, turned into prompts that a server runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
NOTES = frozenset({"Note", "MarkdownNote"})


def to_prompt(
    workflow: Mapping[str, Any], object_info: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Convert a canvas workflow to the API form; `object_info` is what its server says of nodes.

    Raises `ValueError` for a node that the server does not have, and for muted or bypassed nodes.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: dict[str, dict[str, Any]] = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["type"] not in object_info:
            raise ValueError(
                f"Expected nodes that the server has, got {node['type']!r}. "
                "Install the pack that brings it."
            )
        if node.get("mode", 0) != 0:
            raise ValueError(
                f"Expected active nodes only, got a muted or bypassed {node['type']!r}. "
                "Activate it."
            )
        inputs = dict(_widget_values(node, object_info[node["type"]]["input"]))
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                inputs[socket["name"]] = sources[socket["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widget_values(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    values = deque(node.get("widgets_values") or ())
    for name, (kind, *rest) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        options: Mapping[str, Any] = rest[0] if rest else {}
        if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
            if not values and "default" in options:
                yield name, options["default"]
                continue
            if not values:
                raise ValueError(
                    f"Expected a value for {name!r} of {node['type']!r}, got none. "
                    "Save the workflow again with the version of the pack that runs it."
                )
            yield name, values.popleft()
            if options.get("control_after_generate") and values:
                values.popleft()


def by_type(prompt: Mapping[str, Mapping[str, Any]], class_type: str) -> dict[str, Any]:
    """Find the inputs of the one node of this type, to be changed in place.

    Raises `ValueError` if there is not one.
    """
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]
    if len(found) != 1:
        raise ValueError(
            f"Expected one {class_type} in the workflow, got {len(found)}. "
            "Use the workflow as it ships."
        )
    return found[0]
