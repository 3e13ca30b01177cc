"""The whole edit language through the real server: shipped workflows, pictures, wrong input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import PromptFailed, Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt
from p2p_core.lab.showcase.studio import Link, Request, Studio

PROMPT = "a red circle on the grass"
SWAP: Link = ("P2P_WordSwap", {"words": "circle", "replacement": "star"})


@pytest.fixture(scope="module")
def studio(server: Server) -> Studio:
    studio = Studio(server)
    by_type(studio.prompt, "P2P_KSampler").update(steps=6)
    by_type(studio.prompt, "KSampler").update(steps=6)
    return studio


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("1_word_swap", {"source": 1, "p2p": 1, "reprompt": 1}),
        ("2_refine", {"source": 1, "p2p": 1, "reprompt": 1}),
        ("3_reweight", {"source": 1, "p2p": 2}),
        ("4_local_blend", {"source": 1, "p2p": 1, "mask": 1}),
        ("5_attention_maps", {"source": 1, "p2p": 1, "heatmaps": 6, "steps": 6}),
    ],
)
def test_a_shipped_workflow_runs(name: str, pictures: dict[str, int], server: Server) -> None:
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.get("/object_info"))
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    found: dict[str, int] = {}
    for node, output in server.queue(prompt).items():
        if output.get("images"):
            prefix = prompt[node]["inputs"]["filename_prefix"].removeprefix("p2p_")
            images = server.images({node: output})
            found[prefix] = len(images)
            assert all(np.asarray(image).std() > 0 for image in images), prefix
    assert found == pictures


def level(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_edits_that_change_nothing_give_the_source(studio: Studio) -> None:
    chains: Sequence[Sequence[Link]] = [
        [("P2P_Refine", {"edited_prompt": PROMPT})],
        [("P2P_Reweight", {"words": "red: 1"})],
        [
            ("P2P_WordSwap", {"words": "red", "replacement": "red"}),
            ("P2P_Reweight", {"words": "red", "factor": 1.0}),
        ],
    ]
    shot = studio.shoot(Request(PROMPT, chains, 1, 3))
    assert [level(picture, shot["source"][0]) <= 1 for picture in shot["p2p"]] == [True] * 3


def test_a_re_prompted_picture_is_of_one_prompt_however_many_edits(studio: Studio) -> None:
    edited = PROMPT.replace("circle", "star")
    shot = studio.shoot(Request(PROMPT, [[SWAP], [SWAP]], 1, 3, edited))
    alone = studio.shoot(Request(edited, [[("P2P_Reweight", {"words": "red: 1"})]], 1, 3))["source"]
    assert level(shot["reprompt"][0], alone[0]) <= 1


def test_a_reweighted_word_and_a_blend_act(studio: Studio) -> None:
    chains: Sequence[Sequence[Link]] = [
        [("P2P_Reweight", {"words": "red: -2, grass", "factor": 2.0})],
        [SWAP, ("P2P_Reweight", {"words": "star: 2"})],
        [SWAP],
        [SWAP, ("P2P_LocalBlend", {"source_words": "circle", "edited_words": "star"})],
    ]
    shot = studio.shoot(Request(PROMPT, chains, 1, 3))
    weighted, louder, plain, blended = shot["p2p"]
    assert level(weighted, shot["source"][0]) > 8
    assert level(louder, plain) > 2
    assert level(blended, plain) > 2


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([("P2P_Refine", {"edited_prompt": " "})], "Expected the edited prompt, got ' '"),
        ([("P2P_Reweight", {"words": ""})], "Expected at least one word with its factor"),
        ([("P2P_Reweight", {"words": "dog: 2"})], "'dog' is not in the prompt"),
        ([("P2P_Reweight", {"words": "red: much"})], "Expected a number, got 'much'"),
        (
            [("P2P_Reweight", {"words": "red", "word_windows": "red: 0-1"})],
            "Expected the window 'own window' for word windows",
        ),
        (
            [("P2P_WordSwap", {**SWAP[1], "word_windows": "star"})],
            "Expected a word and its window, such as 'butterfly: 0-1'",
        ),
        (
            [("P2P_WordSwap", {**SWAP[1], "word_windows": "circle: 0-1"})],
            "'circle' is not in the prompt 'a red star on the grass'",
        ),
        (
            [SWAP, ("P2P_LocalBlend", {"source_words": "star"})],
            "'star' is not in the prompt 'a red c",
        ),
        (
            [SWAP, ("P2P_LocalBlend", {"source_words": "circle", "resolution": "1/8"})],
            "Expected layers whose side is one of 1, 0.5, 0.25",
        ),
        (
            [
                SWAP,
                ("P2P_LocalBlend", {"source_words": "circle"}),
                ("P2P_LocalBlend", {"source_words": "red"}),
            ],
            "at most one local blend, got 1 edit(s) and 2 local blend(s)",
        ),
    ],
)
def test_wrong_input_is_named(chain: Sequence[Link], message: str, studio: Studio) -> None:
    with pytest.raises(PromptFailed) as failure:
        studio.shoot(Request(PROMPT, [chain], 1, 3))
    assert message in str(failure.value)


def test_words_to_look_at_that_no_prompt_has(studio: Studio) -> None:
    with pytest.raises(PromptFailed, match="'tree' is in none of the prompts"):
        studio.shoot(Request(PROMPT, [[SWAP]], 1, 3, maps="tree"))
    with pytest.raises(PromptFailed, match=r"'stars' is in none of .* Did you mean 'star'\?"):
        studio.shoot(Request(PROMPT, [[SWAP]], 1, 3, maps="stars"))


def test_the_advanced_sampler_and_the_guider(studio: Studio, server: Server) -> None:
    """Both give the P2P KSampler's pictures."""
    prompt: dict[str, Any] = json.loads(json.dumps(studio.prompt))
    sampler = next(name for name, n in prompt.items() if n["class_type"] == "P2P_KSampler")
    inputs = prompt[sampler]["inputs"]
    shared = {key: inputs[key] for key in ("model", "controller", "negative")}
    advanced = {key: value for key, value in inputs.items() if key not in ("denoise", "positive")}
    steps = {"start_at_step": 0, "end_at_step": 3, "return_with_leftover_noise": True}
    prompt["first"] = {
        "class_type": "P2P_KSamplerAdvanced",
        "inputs": {**advanced, **steps, "add_noise": True},
    }
    prompt["second"] = {
        "class_type": "P2P_KSamplerAdvanced",
        "inputs": {
            **advanced,
            "latent_image": ["first", 0],
            "edited": ["first", 1],
            "add_noise": False,
            "start_at_step": 3,
            "end_at_step": 10000,
            "return_with_leftover_noise": False,
        },
    }
    prompt["guider"] = {"class_type": "P2P_Guider", "inputs": {**shared, "cfg": inputs["cfg"]}}
    prompt["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": inputs["seed"]}}
    prompt["euler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    prompt["sigmas"] = {
        "class_type": "BasicScheduler",
        "inputs": {"model": inputs["model"], "scheduler": "normal", "steps": 6, "denoise": 1.0},
    }
    prompt["custom"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["noise", 0],
            "guider": ["guider", 0],
            "sampler": ["euler", 0],
            "sigmas": ["sigmas", 0],
            "latent_image": inputs["latent_image"],
        },
    }
    decode = next(node for node in prompt.values() if node["class_type"] == "VAEDecode")
    for name, samples in (("parts", ["second", 1]), ("custom", ["custom", 0])):
        vae = decode["inputs"]["vae"]
        prompt[f"{name}_image"] = {
            "class_type": "VAEDecode",
            "inputs": {"samples": samples, "vae": vae},
        }
        prompt[f"{name}_saved"] = {
            "class_type": "SaveImage",
            "inputs": {"images": [f"{name}_image", 0], "filename_prefix": f"p2p_{name}"},
        }
    shot: dict[str, list[np.ndarray]] = {}
    for name, output in server.queue(prompt).items():
        prefix = prompt[name]["inputs"].get("filename_prefix", "").removeprefix("p2p_")
        if output.get("images"):
            shot[prefix] = [
                np.asarray(image.convert("RGB")) for image in server.images({name: output})
            ]
    assert level(shot["parts"][0], shot["p2p"][0]) <= 1
    assert level(shot["custom"][0], shot["source"][0]) <= 1
    assert level(shot["custom"][1], shot["p2p"][0]) <= 1
