"""Real images in the real server: inverted, kept, loaded, edited, interrupted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import interrupted

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import PromptFailed, Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt


@pytest.fixture
def prompt(server: Server) -> dict[str, Any]:
    """The real-image workflow in the API form, with null texts and few steps."""
    path = ROOT / "workflows" / "6_real_image.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.get("/object_info"))
    by_type(prompt, "P2P_NullTextInversion").update(method="null-text", steps=6, denoise=1.0)
    by_type(prompt, "P2P_KSampler").update(sampler_name="euler", steps=6, denoise=1.0)
    return prompt


def pictures(server: Server, prompt: dict[str, Any]) -> dict[str, np.ndarray]:
    """By file name prefix: int[128 128 3]."""
    return {
        prompt[node]["inputs"]["filename_prefix"]: np.asarray(
            server.images({node: out})[0].convert("RGB")
        ).astype(int)
        for node, out in server.queue(prompt).items()
        if out.get("images")
    }


def test_an_image_comes_back_and_is_edited(server: Server, prompt: dict[str, Any]) -> None:
    made = pictures(server, prompt)
    given, source, edited = (made[f"p2p_{name}"] for name in ("given", "source", "p2p"))
    assert np.abs(given - source).mean() < 4
    assert np.abs(edited - source).mean() > 4
    again = pictures(server, prompt)
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_a_saved_inversion_is_loaded_by_its_name(server: Server, prompt: dict[str, Any]) -> None:
    made = pictures(server, prompt)
    (inversion,) = (n for n, p in prompt.items() if p["class_type"] == "P2P_NullTextInversion")
    prefix = f"inversions/test_{time.time_ns()}"
    saving = {
        "class_type": "P2P_SaveInversion",
        "inputs": {"inversion": [inversion, 0], "filename_prefix": prefix},
    }
    server.queue({**prompt, "keep": saving})
    loader = server.get("/object_info")["P2P_LoadInversion"]["input"]["required"]["file"]
    names = loader[0] if isinstance(loader[0], list) else loader[1]["options"]
    (name,) = (one for one in names if one.startswith(prefix))
    prompt[inversion] = {"class_type": "P2P_LoadInversion", "inputs": {"file": name}}
    again = pictures(server, prompt)
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_a_damaged_or_missing_file_is_refused_on_the_node(
    server: Server, prompt: dict[str, Any]
) -> None:
    """One cut short after the node had it in its list, one that never was, and a pipe.

    The newer host looks the name up in the list before the node is asked.
    """
    (inversion,) = (n for n, p in prompt.items() if p["class_type"] == "P2P_NullTextInversion")
    path = Path(server.base) / "output" / "inversions" / "damaged.p2p.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0half")
    absent, pipe = "none.p2p.safetensors", "pipe.p2p.safetensors"
    os.mkfifo(path.with_name(pipe))
    assert pipe not in str(server.get("/object_info/P2P_LoadInversion"))
    for name, said in (
        (path.name, "cannot be read"),
        (absent, "not in list|cannot be read"),
        (pipe, "not in list|no regular file"),
    ):
        file = f"inversions/{name} [output]"
        prompt[inversion] = {"class_type": "P2P_LoadInversion", "inputs": {"file": file}}
        with pytest.raises(PromptFailed, match=said):
            server.queue(prompt)


def test_what_does_not_fit_is_named_on_the_node(server: Server, prompt: dict[str, Any]) -> None:
    by_type(prompt, "P2P_KSampler").update(sampler_name="dpmpp_2m")
    with pytest.raises(PromptFailed, match="Expected the sampler euler for an inversion by null"):
        server.queue(prompt)


def test_an_interrupted_inversion_leaves_the_server_able(
    server: Server, prompt: dict[str, Any]
) -> None:
    long = json.loads(json.dumps(prompt))
    by_type(long, "P2P_NullTextInversion").update(steps=500, inner_steps=100, early_stop=0.0)
    identity = server.submit(long)
    entry = interrupted(server, identity)
    events = [event for event, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in events
    assert set(pictures(server, prompt)) == {"p2p_given", "p2p_source", "p2p_p2p"}
