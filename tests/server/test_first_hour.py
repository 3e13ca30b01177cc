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


def test_an_edit_says_what_it_does(server: Server) -> None:
    prompt = demo(server, "word_swap_demo")
    swap = node_of(prompt, "P2P_WordSwap")
    prompt["loud"] = {
        "class_type": "P2P_Reweight",
        "inputs": {
            **{"edit": [swap, 0], "words": "blue=2, grass", "factor": 0.5, "window_start": 0.0},
            **{"window": "as the edits before it", "window_end": 1.0, "self_replace_end": 0.4},
        },
    }
    prompt["mask"] = blend_of(server, ["loud", 0])
    by_type(prompt, "P2P_Controller").update(edit_1=["mask", 0])
    seen = watch(server, prompt)
    assert pictures(server, seen)
    assert seen.texts[swap] == ["red → blue · 5 words kept"]
    assert seen.texts["loud"] == ["blue × 2, grass × 0.5"]
    assert seen.texts["mask"] == ["within red, grass, blue"]


def blend_of(server: Server, edit: list[Any] | None = None, **inputs: Any) -> Prompt:
    """A Local Blend Mask with its default values."""
    known = server.get("/object_info/P2P_LocalBlend")["P2P_LocalBlend"]["input"]["required"]
    values = {
        name: rest[0].get("default", "automatic" if name == "resolution" else None)
        for name, (_, *rest) in known.items()
    }
    before = {} if edit is None else {"edit": edit}
    return {"class_type": "P2P_LocalBlend", "inputs": {**values, **before, **inputs}}


def test_a_blend_without_words_is_one_of_the_words_that_change(server: Server) -> None:
    prompt = demo(server, "word_swap_demo")
    swap, saved = node_of(prompt, "P2P_WordSwap"), "p2p_p2p"
    (node,) = (n for n, one in prompt.items() if one["inputs"].get("filename_prefix") == saved)
    made: list[np.ndarray] = []
    for words in ({}, {"source_words": "red", "edited_words": "blue"}):
        prompt["mask"] = blend_of(server, [swap, 0], **words)
        by_type(prompt, "P2P_Controller").update(edit_1=["mask", 0])
        made += pictures(server, watch(server, prompt))[node]
    assert np.array_equal(*made)


@pytest.mark.parametrize("masked", [False, True])
def test_without_edits_the_source_is_sampled_alone(masked: bool, server: Server) -> None:
    """As the stock KSampler does it; what would be made of edits is left out, without an error."""
    prompt = demo(server, "word_swap_demo")
    controller, sampler = by_type(prompt, "P2P_Controller"), by_type(prompt, "KSampler")
    del prompt[node_of(prompt, "P2P_WordSwap")], controller["edit_1"]
    if masked:  # its edits are bypassed
        prompt["mask"] = blend_of(server)
        controller["edit_1"] = ["mask", 0]
    encode = sampler["positive"][0]
    edited = prompt[encode]["inputs"]["text"]
    seen = watch(server, prompt)
    prefixes = {prompt[node]["inputs"]["filename_prefix"]: node for node in seen.outputs}
    assert set(prefixes) == {"p2p_source"}
    assert edited == [node_of(prompt, "P2P_Controller"), 1]
    (source,) = pictures(server, seen)[prefixes["p2p_source"]]
    prompt[encode]["inputs"]["text"] = controller["source_prompt"]
    (stock,) = (
        made[0]
        for node, made in pictures(server, watch(server, prompt)).items()
        if node not in seen.outputs
    )
    assert np.abs(source.astype(int) - stock).max() <= 1
    assert ("mask" in seen.texts) == masked


def test_an_advanced_sampler_goes_on_without_edits(server: Server) -> None:
    prompt = demo(server, "word_swap_demo")
    del by_type(prompt, "P2P_Controller")["edit_1"], prompt[node_of(prompt, "P2P_WordSwap")]
    sampler = node_of(prompt, "P2P_KSampler")
    inputs = prompt[sampler]["inputs"]
    del inputs["denoise"]
    rest = {"add_noise": True, "start_at_step": 0, "end_at_step": 2}
    prompt["first"] = {
        "class_type": "P2P_KSamplerAdvanced",
        "inputs": {**inputs, **rest, "return_with_leftover_noise": True},
    }
    rest = {"add_noise": False, "start_at_step": 2, "end_at_step": 99}
    prompt[sampler] = {
        "class_type": "P2P_KSamplerAdvanced",
        "inputs": {**inputs, **rest, "return_with_leftover_noise": False}
        | {"latent_image": ["first", 0], "edited": ["first", 1]},
    }
    assert len(pictures(server, watch(server, prompt))) == 1


def test_a_stock_conditioning_as_the_controllers_is_named(server: Server) -> None:
    prompt = demo(server, "word_swap_demo")
    inputs = by_type(prompt, "P2P_KSampler")
    inputs.update(positive=inputs["negative"])
    error = watch(server, prompt).messages["execution_error"]
    assert "write the prompt into the controller, and leave positive unc" in str(error)


def test_the_demo_models_own_size(server: Server) -> None:
    """Its own latent is as large as an empty one of 128 pixels; a large one is warned of."""
    prompt = demo(server, "word_swap_demo")
    inputs, checkpoint = by_type(prompt, "P2P_KSampler"), node_of(prompt, "P2P_DemoCheckpoint")
    seen = watch(server, prompt)
    by_type(prompt, "KSampler").update(latent_image=[checkpoint, 3])
    inputs.update(latent_image=[checkpoint, 3])
    again = watch(server, prompt)
    own, made = pictures(server, again), pictures(server, seen)
    assert all(np.array_equal(made[node][0], own[node][0]) for node in made)
    sampler, stock = node_of(prompt, "P2P_KSampler"), node_of(prompt, "KSampler")
    assert {sampler, stock}.isdisjoint(again.texts)
    inputs.update(steps=1, latent_image=["large", 0])
    by_type(prompt, "KSampler").update(steps=1, latent_image=["large", 0])
    size = {"width": 512, "height": 256, "batch_size": 1}
    prompt["large"] = {"class_type": "EmptyLatentImage", "inputs": size}
    large = watch(server, prompt)
    for node in (sampler, stock):
        assert "at 512×256 it scatters shapes" in large.texts[node][-1]
    assert "at 512×256 it scatters shapes" in server.log.read_text(encoding="utf-8")
