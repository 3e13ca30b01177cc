"""The workflows that ship with the pack, and which hosts they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2p_core.hosts.launch.locate import ROOT, Host

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def skip_if_newer(path: Path, host: Host) -> None:
    """Skip the test where a node of the workflow says that it came with a later ComfyUI."""
    nodes = {node["type"]: node["properties"].get("ver", "0") for node in read(path)["nodes"]}
    for kind, version in nodes.items():
        if _parts(version) > _parts(host.version):
            pytest.skip(f"{path.stem} is for ComfyUI {version}, which brought its {kind}")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
