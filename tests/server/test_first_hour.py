"""What a new user meets in the first hour, as the browser is told of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watched import Watched, watch

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt

DEMOS = sorted((ROOT / "workflows").glob("[1-6]_*.json"))
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
    prompt = demo(server, "6_real_image")
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
    prompt = demo(server, "1_word_swap")
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
    prompt = demo(server, "1_word_swap")
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
    prompt = demo(server, "1_word_swap")
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
    assert seen.texts["mask"] == ["within red, grass, circle, blue"]


def test_an_edit_is_told_where_it_is_not_where_an_equal_one_was(server: Server) -> None:
    """The host takes the output of an equal node of another workflow, though it has another id."""
    before = demo(server, "1_word_swap")
    swap, prompt = node_of(before, "P2P_WordSwap"), demo(server, "1_word_swap")
    prompt["elsewhere"] = prompt.pop(swap)
    told = {"edit_1": ["elsewhere", 0], "source_prompt": "a red ring on the grass"}
    by_type(prompt, "P2P_Controller").update(told)
    assert watch(server, before).messages["execution_success"]
    assert watch(server, prompt).texts["elsewhere"] == ["red → blue · 5 words kept"]


def blend_of(server: Server, edit: list[Any] | None = None, **inputs: Any) -> Prompt:
    """A Local Blend Mask with its default values."""
    known = server.get("/object_info/P2P_LocalBlend")["P2P_LocalBlend"]["input"]["required"]
    values = {
        name: rest[0].get("default", "automatic" if name == "resolution" else None)
        for name, (_, *rest) in known.items()
    }
    before = {} if edit is None else {"edit": edit}
    return {"class_type": "P2P_LocalBlend", "inputs": {**values, **before, **inputs}}


def test_a_blend_without_words_is_one_of_what_changes_and_its_nouns(server: Server) -> None:
    prompt = demo(server, "1_word_swap")
    swap, saved = node_of(prompt, "P2P_WordSwap"), "p2p_p2p"
    (node,) = (n for n, one in prompt.items() if one["inputs"].get("filename_prefix") == saved)
    made: list[np.ndarray] = []
    for words in ({}, {"source_words": "red, circle", "edited_words": "blue, circle"}):
        prompt["mask"] = blend_of(server, [swap, 0], **words)
        by_type(prompt, "P2P_Controller").update(edit_1=["mask", 0])
        made += pictures(server, watch(server, prompt))[node]
    assert np.array_equal(*made)


@pytest.mark.parametrize("masked", [False, True])
def test_without_edits_the_source_is_sampled_alone(masked: bool, server: Server) -> None:
    """As the stock KSampler does it; what would be made of edits is left out, without an error."""
    prompt = demo(server, "1_word_swap")
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
    prompt = demo(server, "1_word_swap")
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
    prompt = demo(server, "1_word_swap")
    inputs = by_type(prompt, "P2P_KSampler")
    inputs.update(positive=inputs["negative"])
    error = watch(server, prompt).messages["execution_error"]
    assert "write the prompt into the controller, and leave positive unc" in str(error)


def test_the_demo_models_own_size(server: Server) -> None:
    """Its own latent is as large as an empty one of 128 pixels; a large one is warned of."""
    prompt = demo(server, "1_word_swap")
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


def test_an_inversion_brings_its_settings(server: Server) -> None:
    """A differing value gives way, and is shown; the pictures are those of equal ones."""
    prompt = demo(server, "6_real_image")
    inputs = by_type(prompt, "P2P_KSampler")
    by_type(prompt, "P2P_NullTextInversion").update(
        method="edit-friendly", steps=5, denoise=0.7, cfg=3.0, scheduler="karras"
    )
    sampler = node_of(prompt, "P2P_KSampler")
    inputs.update(sampler_name="euler_ancestral", cfg=3.0)
    inputs.update(steps=5, denoise=0.7, scheduler="karras")
    seen = watch(server, prompt)
    assert seen.texts[sampler] == ["from the inversion: settings as they are here"]
    inputs.update(steps=9, denoise=1.0, scheduler="normal", cfg=7.5, sampler_name="euler")
    other = watch(server, prompt)
    assert other.texts[sampler] == [
        "from the inversion: steps 5, not 9; cfg 3, not 7.5; scheduler karras, not normal; "
        "denoise 0.7, not 1\nedit-friendly goes best with the sampler euler_ancestral"
    ]
    inputs.update(sampler_name="euler_ancestral")
    again, made = pictures(server, watch(server, prompt)), pictures(server, seen)
    assert all(np.array_equal(made[node][0], again[node][0]) for node in made)
    with_guider(prompt, sampler, steps=9)
    guided = watch(server, prompt)
    shown = pictures(server, guided)
    assert guided.texts["guider"][-1].startswith("from the inversion: cfg 3, not 7.5\n")
    assert "5 steps from" in guided.texts["guider"][-1]
    (both,) = (shown[node] for node in shown if node == "save")
    saved = {prompt[node]["inputs"]["filename_prefix"]: one[0] for node, one in made.items()}
    for picture, name in zip(both, ("p2p_source", "p2p_p2p"), strict=True):
        assert np.abs(picture.astype(int) - saved[name]).max() <= 1


def with_guider(prompt: Prompt, sampler: str, steps: int) -> None:
    """Adds the same run by the host's nodes for custom sampling, at its default denoise."""
    inputs = prompt[sampler]["inputs"]
    shared = {name: inputs[name] for name in ("model", "controller", "negative", "cfg")}
    vae = next(n for n in prompt.values() if n["class_type"] == "VAEDecode")["inputs"]["vae"]
    levels = {"scheduler": "normal", "steps": steps, "denoise": 1.0}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "guider": ("P2P_Guider", {**shared, "inversion": inputs["inversion"]}),
        "noise": ("DisableNoise", {}),
        "select": ("KSamplerSelect", {"sampler_name": inputs["sampler_name"]}),
        "sigmas": ("BasicScheduler", {"model": inputs["model"], **levels}),
        "custom": (
            "SamplerCustomAdvanced",
            {
                **{"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["select", 0]},
                **{"sigmas": ["sigmas", 0], "latent_image": inputs["latent_image"]},
            },
        ),
        "decode": ("VAEDecode", {"samples": ["custom", 0], "vae": vae}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "p2p_guided"}),
    }
    prompt.update({n: {"class_type": kind, "inputs": own} for n, (kind, own) in nodes.items()})


@pytest.mark.parametrize("connected", [False, True])
def test_how_well_a_picture_comes_back(connected: bool, server: Server) -> None:
    """Methods that put the source back do as well as the autoencoder, and no better."""
    prompt = demo(server, "6_real_image")
    node, inputs = (
        node_of(prompt, "P2P_NullTextInversion"),
        by_type(prompt, "P2P_NullTextInversion"),
    )
    if connected:
        inputs["image"] = [node_of(prompt, "P2P_DemoImage"), 0]
    for method, exact in (("edit-friendly", True), ("ddim", False)):
        inputs.update(method=method, denoise=1.0)
        (said,) = watch(server, prompt).texts[node]
        found = re.fullmatch(
            rf"{method}: (good|fair|poor), the picture comes back with ([\d.]+) dB "
            r"\(the autoencoder alone: ([\d.]+) dB\)\n"
            r"source prompt: good, the prompt explains \d+% of what the negative leaves open",
            said,
        )
        assert found, said
        word, picture, limit = found[1], float(found[2]), float(found[3])
        assert 20 < limit < 60
        assert (picture == limit) == exact
        assert (word == "good") == exact
    if connected:
        inputs["image"] = ["other", 0]
        size = {"width": 256, "height": 128, "batch_size": 1, "color": 0}
        prompt["other"] = {"class_type": "EmptyImage", "inputs": size}
        error = watch(server, prompt).messages["execution_error"]["exception_message"]
        assert "the picture that the latent is of, 1 of 128×128 pixels, got 1 of 256×128" in error
