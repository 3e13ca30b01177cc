"""A server that edits all day does not grow."""

from __future__ import annotations

import json
from typing import Any

import psutil

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt

RUNS, SETTLED = 200, 20


def resident(server: Server) -> int:
    """Bytes of memory that the server and its children hold."""
    process = psutil.Process(server.pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def test_two_hundred_runs_leave_nothing_behind(server: Server) -> None:
    workflow = json.loads((ROOT / "workflows" / "4_local_blend.json").read_text("utf-8"))
    prompt: dict[str, Any] = to_prompt(workflow, server.get("/object_info"))
    prompt = {n: node for n, node in prompt.items() if node["class_type"] != "KSampler"}
    prompt = {
        name: node
        for name, node in prompt.items()
        if node["class_type"] != "SaveImage" or node["inputs"]["filename_prefix"] == "p2p_p2p"
    }
    for node in prompt.values():
        if node["class_type"] == "SaveImage":
            node["class_type"] = "PreviewImage"
            del node["inputs"]["filename_prefix"]
    held: dict[int, int] = {}
    for run in range(1, RUNS + 1):
        by_type(prompt, "P2P_KSampler").update(steps=2, seed=run)
        assert server.queue(prompt)
        held[run] = resident(server)
    assert held[RUNS] <= 1.02 * held[SETTLED]
