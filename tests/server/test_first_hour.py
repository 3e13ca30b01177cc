"""What a new user meets in the first hour, as the browser is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watched import Watched, watch

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt

DEMOS = sorted((ROOT / "workflows").glob("*_demo.json"))
Prompt = dict[str, Any]


def demo(server: Server, name: str) -> Prompt:
    """A shipped workflow in the API form, with few steps."""
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.get("/object_info"))
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    return prompt


def node_of(prompt: Prompt, class_type: str) -> str:
    (found,) = (name for name, node in prompt.items() if node["class_type"] == class_type)
    return found


def pictures(server: Server, seen: Watched) -> dict[str, list[np.ndarray]]:
    """By node."""
    assert "execution_success" in seen.messages, seen.messages
    return {
        node: [np.asarray(image) for image in server.images({node: output})]
        for node, output in seen.outputs.items()
        if output and output.get("images")
    }


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_queued_twice_is_not_computed_again(path: Path, server: Server) -> None:
    prompt = demo(server, path.stem)
    first, second = watch(server, prompt), watch(server, prompt)
    made, again = pictures(server, first), pictures(server, second)
    assert made
    assert made.keys() == again.keys()
    assert all(
        np.array_equal(one, other)
        for node in made
        for one, other in zip(made[node], again[node], strict=True)
    )
    ours = {name for name, node in prompt.items() if node["class_type"].startswith("P2P_")}
    assert ours <= second.cached


def test_seeds_stay_as_they_are(server: Server) -> None:
    """The frontend changes a seed after each run unless it is told otherwise, by name if need be.

    The older host can only say that there is a choice.
    """
    for name, info in server.get("/object_info").items():
        if name.startswith("P2P_"):
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            for key, (_, *rest) in inputs.items():
                if key in ("seed", "noise_seed"):
                    assert rest[0]["control_after_generate"] in ("fixed", True), name
    image = server.get("/object_info/P2P_DemoImage")["P2P_DemoImage"]["input"]["required"]
    assert set(image) == {"picture"}


def test_what_a_method_ignores_does_not_invert_again(server: Server) -> None:
    prompt = demo(server, "real_image_demo")
    node = node_of(prompt, "P2P_NullTextInversion")
    inputs = by_type(prompt, "P2P_NullTextInversion")
    inputs.update(method="null-text")
    first = watch(server, prompt)
    assert any("loss" in line for line in first.texts[node])
    inputs.update(seed=5)
    again = watch(server, prompt)
    assert node not in again.cached  # the host knows nothing of what a method ignores
    assert not any("loss" in line for line in again.texts[node])
    inputs.update(early_stop=1e-5)
    other = watch(server, prompt)
    assert any("loss" in line for line in other.texts[node])


def test_each_edited_prompt_is_re_prompted_by_itself(server: Server) -> None:
    """One picture an edit, each that of its own text alone; one edit is as it ever was."""
    prompt = demo(server, "word_swap_demo")
    swap, encode = node_of(prompt, "P2P_WordSwap"), by_type(prompt, "KSampler")["positive"][0]
    (saved,) = (
        name
        for name, node in prompt.items()
        if node["inputs"].get("filename_prefix") == "p2p_reprompt"
    )
    second = {"words": "circle", "replacement": "star"}
    prompt["second"] = {**prompt[swap], "inputs": {**prompt[swap]["inputs"], **second}}
    by_type(prompt, "P2P_Controller").update(edit_1=[swap, 0], edit_2=["second", 0])
    both = pictures(server, watch(server, prompt))[saved]
    texts = ("a blue circle on the grass", "a red star on the grass")
    source = by_type(prompt, "P2P_Controller")["source_prompt"]
    assert source == "a red circle on the grass"
    assert len(both) == 2
    for picture, text in zip(both, texts, strict=True):
        prompt[encode]["inputs"].update(text=text)
        (alone,) = pictures(server, watch(server, prompt))[saved]
        assert np.array_equal(picture, alone)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"words": "rad"}, "'rad' is not in the prompt. Did you mean 'red'?"),
        ({"words": "(red:1.4)"}, "'(red:1.4)' is not in the prompt. Did you mean 'red'?"),
        ({"words": "circle #2"}, "occurs 1 time(s) in the prompt"),
        ({"word_windows": "blu: 0-1"}, "'blu' is not in the prompt. Did you mean 'blue'?"),
    ],
)
def test_a_mistake_is_told_of_the_edit_that_it_is_in(
    inputs: dict[str, Any], said: str, server: Server
) -> None:
    """By the error, which the host has of the controller, and under the edit's own node."""
    prompt = demo(server, "word_swap_demo")
    swap, controller = node_of(prompt, "P2P_WordSwap"), node_of(prompt, "P2P_Controller")
    prompt["second"] = {**prompt[swap], "inputs": {**prompt[swap]["inputs"], **inputs}}
    by_type(prompt, "P2P_Controller").update(edit_2=["second", 0])
    seen = watch(server, prompt)
    error = seen.messages["execution_error"]
    assert error["node_id"] == controller, error
    assert error["exception_message"].startswith("edit_2, Word Swap: ")
    assert said in error["exception_message"]
    assert said in seen.texts["second"][-1]
    assert swap not in seen.texts
