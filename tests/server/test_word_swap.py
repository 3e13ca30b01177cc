"""Word swap through the real server: shipped workflow, identities, wrong input, interruption."""

from __future__ import annotations

import copy
import json
import urllib.request
from typing import Any

import numpy as np
import pytest
from shipped import WORKFLOWS, skip_if_newer
from waiting import interrupted, wait_until

from p2p_core.hosts.launch.locate import ROOT, Host
from p2p_core.hosts.launch.server import PACK_NAME, PromptFailed, Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt

NODES = (
    "P2P_Controller",
    "P2P_WordSwap",
    "P2P_Refine",
    "P2P_Reweight",
    "P2P_LocalBlend",
    "P2P_KSampler",
    "P2P_KSamplerAdvanced",
    "P2P_Guider",
    "P2P_SampleSource",
    "P2P_AttentionMaps",
    "P2P_Compare",
    "P2P_DemoCheckpoint",
    "P2P_DemoImage",
    "P2P_NullTextInversion",
    "P2P_SaveInversion",
    "P2P_LoadInversion",
)
LEVEL = 1
"""One of 255: what the PNG's rounding can make of two latents that differ by float error."""


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture
def prompt(object_info: dict[str, Any]) -> dict[str, Any]:
    """The demo workflow in the API form, with few steps."""
    workflow = json.loads((ROOT / "workflows" / "1_word_swap.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, object_info)
    by_type(prompt, "P2P_KSampler").update(steps=6)
    by_type(prompt, "KSampler").update(steps=6)
    return prompt


def run(server: Server, prompt: dict[str, Any]) -> dict[str, np.ndarray]:
    """Pictures by file name prefix: int[images 128 128 3]."""
    outputs = server.queue(prompt)
    return {
        prompt[node]["inputs"]["filename_prefix"].removeprefix("p2p_"): np.stack(
            [np.asarray(image.convert("RGB")).astype(int) for image in server.images({node: out})]
        )
        for node, out in outputs.items()
        if out.get("images")
    }


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a - b).max())


def test_the_demo_workflow_gives_source_edit_and_plain_picture(
    server: Server, prompt: dict[str, Any]
) -> None:
    pictures = run(server, prompt)
    assert set(pictures) == {"source", "p2p", "reprompt"}
    assert all(picture.shape == (1, 128, 128, 3) for picture in pictures.values())
    assert difference(pictures["p2p"], pictures["source"]) > 20
    assert difference(pictures["p2p"], pictures["reprompt"]) > 20


def test_a_word_swapped_with_itself_gives_the_stock_ksamplers_source_image(
    server: Server, prompt: dict[str, Any]
) -> None:
    swap = by_type(prompt, "P2P_WordSwap")
    swap.update(replacement=swap["words"])
    pictures = run(server, prompt)  # the plain picture is now the stock one of the source prompt
    assert difference(pictures["source"], pictures["reprompt"]) <= LEVEL
    assert difference(pictures["p2p"], pictures["source"]) <= LEVEL


def test_windows_of_zero_give_the_stock_ksamplers_picture_of_the_edited_prompt(
    server: Server, prompt: dict[str, Any]
) -> None:
    by_type(prompt, "P2P_WordSwap").update(cross_replace_end=0.0, self_replace_end=0.0)
    pictures = run(server, prompt)
    assert difference(pictures["p2p"], pictures["reprompt"]) <= LEVEL


def test_the_same_graph_queued_twice_gives_the_same_bits(
    server: Server, prompt: dict[str, Any]
) -> None:
    other = copy.deepcopy(prompt)
    by_type(other, "P2P_KSampler").update(seed=1)
    first = run(server, prompt)
    run(server, other)  # so that the host does not answer from its cache
    second = run(server, prompt)
    assert all((first[name] == second[name]).all() for name in first)


def test_two_swaps_in_a_chain(server: Server, prompt: dict[str, Any]) -> None:
    (swap,) = [key for key, node in prompt.items() if node["class_type"] == "P2P_WordSwap"]
    second = copy.deepcopy(prompt[swap])
    second["inputs"].update(words="circle", replacement="star", edit=[swap, 0])
    prompt["second"] = second
    by_type(prompt, "P2P_Controller").update(edit_1=["second", 0], edit_2=[swap, 0])
    pictures = run(server, prompt)
    assert pictures["source"].shape[0] == 1
    assert pictures["p2p"].shape[0] == pictures["reprompt"].shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": "dog"}, r"'dog' is not in the prompt .* Its words are: a, red, circle"),
        ({"words": ""}, r"Expected a word of the prompt, got ''"),
        ({"occurrence": 2}, r"occurs 1 time\(s\) .* occurrence 2 was asked for"),
        ({"cross_replace_start": 0.9}, r"starts before it ends, got 0.9 to .*Swap the two ends"),
        ({"self_replace_end": 1.5}, r"self_replace_end"),
        ({"words": "a red circle on the grass", "replacement": ""}, r"nothing of the prompt"),
    ],
)
def test_wrong_input_is_an_error_on_the_node(
    changes: dict[str, Any], message: str, server: Server, prompt: dict[str, Any]
) -> None:
    by_type(prompt, "P2P_WordSwap").update(changes)
    with pytest.raises(PromptFailed, match=rf"(?s)P2P_(WordSwap|Controller)\).*{message}"):
        server.queue(prompt)


def test_an_empty_prompt(server: Server, prompt: dict[str, Any]) -> None:
    by_type(prompt, "P2P_Controller").update(source_prompt=" ")
    with pytest.raises(PromptFailed, match="Expected a source prompt with words in it"):
        server.queue(prompt)


def test_an_interrupted_run_leaves_the_server_ready(server: Server, prompt: dict[str, Any]) -> None:
    long = copy.deepcopy(prompt)
    by_type(long, "P2P_KSampler").update(steps=3000)
    identity = server.submit(long)
    wait_until(lambda: server.get("/queue")["queue_running"], "a run that has begun")
    entry = interrupted(server, identity)
    events = [event for event, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in events
    assert run(server, prompt)["p2p"].shape == (1, 128, 128, 3)


def test_the_template_browser_lists_every_workflow_with_its_thumbnail(server: Server) -> None:
    listed = server.get("/workflow_templates")[PACK_NAME]
    assert sorted(listed) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        base = f"{server.url}/api/workflow_templates/{PACK_NAME}/{path.stem}"
        for ending, kind in ((".json", "application/json"), (".jpg", "image/jpeg")):
            with urllib.request.urlopen(base + ending) as answer:
                assert answer.headers["Content-Type"].startswith(kind)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_nodes_and_sockets_that_exist(
    path: Any, object_info: dict[str, Any], host: Host
) -> None:
    skip_if_newer(path, host)
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, object_info)
    for node in prompt.values():
        known = object_info[node["class_type"]]["input"]
        names = {**known["required"], **known.get("optional", {})}
        assert set(node["inputs"]) <= set(names)
        assert set(known["required"]) <= set(node["inputs"])
        for value in node["inputs"].values():
            if isinstance(value, list):
                source = object_info[prompt[value[0]]["class_type"]]
                assert value[1] < len(source["output"])


@pytest.mark.parametrize("node", NODES)
def test_every_input_and_output_has_a_tooltip(node: str, object_info: dict[str, Any]) -> None:
    info = object_info[node]
    for inputs in (info["input"].get("required", {}), info["input"].get("optional", {})):
        for name, (_, *rest) in inputs.items():
            assert rest[0].get("tooltip"), name
    assert all(info["output_tooltips"] or [])
    assert len(info["output_tooltips"] or []) == len(info["output"])
    assert info["description"]
    assert info["category"] == "prompt-to-prompt"


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page(node: str, server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/extensions/{PACK_NAME}/docs/{node}.md") as answer:
        assert answer.read().decode().startswith("# P2P")


def test_the_packs_texts_are_those_of_its_nodes(
    server: Server, object_info: dict[str, Any]
) -> None:
    """locales/en repeats the schemas for translators; a text changed in one place is a mistake."""
    texts = server.get("/i18n")["en"]["nodeDefs"]
    for node in NODES:
        info = object_info[node]
        assert texts[node]["display_name"] == info["display_name"]
        assert texts[node]["description"] == info["description"]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        tooltips = {name: rest[0]["tooltip"] for name, (_, *rest) in inputs.items()}
        mine = {name: entry["tooltip"] for name, entry in texts[node].get("inputs", {}).items()}
        assert mine == tooltips
        outputs = [entry["tooltip"] for entry in texts[node].get("outputs", {}).values()]
        assert outputs == (info["output_tooltips"] or [])
