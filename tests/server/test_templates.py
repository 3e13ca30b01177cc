"""What the shipped demo workflows show is what the README promises, run exactly as they ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from p2p_core.demo.recognise import matches, recognise
from p2p_core.hosts.launch.server import Server
from p2p_core.lab.metrics import psnr
from p2p_core.lab.showcase.exhibits import background_psnr, pattern_strength
from p2p_core.lab.showcase.templates import FOLDER, PREFIX, SHOWN, read, run, strip, twin

LEAST, LEAST_BLENDED = 33.0, 38.0
"""Decibels of the background between source and edit, without and with a local blend."""

LEAST_THUMBNAIL = 30.0
"""Decibels between a run and the thumbnail made of one, which is a JPEG."""

Wanted = Mapping[str, str]
CIRCLE: Wanted = {"shape": "circle", "colour": "red", "pattern": "plain"}
SQUARE: Wanted = {"shape": "square", "colour": "blue", "pattern": "striped"}
MOON: Wanted = {"shape": "moon", "colour": "yellow", "pattern": "plain"}

SHIPPED: dict[str, tuple[Wanted, tuple[Wanted | None, ...]]] = {
    "1_word_swap": (CIRCLE, ({**CIRCLE, "colour": "blue"},)),
    "2_refine": (CIRCLE, ({**CIRCLE, "pattern": "striped"},)),
    "3_reweight": (SQUARE, (None, {**SQUARE, "pattern": "plain"})),
    "4_local_blend": (CIRCLE, ({**CIRCLE, "shape": "star"},)),
    "5_attention_maps": (CIRCLE, ({**CIRCLE, "colour": "blue"},)),
    "6_real_image": (MOON, ({**MOON, "colour": "blue"},)),
}
"""What source and edits of each show; None where a word is only turned down half-way."""


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(
    request: pytest.FixtureRequest, server: Server, object_info: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, list[np.ndarray]]]:
    """Name, prompt and pictures of a run as shipped."""
    prompt = read(request.param, object_info)
    return request.param, prompt, run(server, prompt)


def shows(picture: np.ndarray, wanted: Wanted) -> bool:
    """Whether there is one object and it is that, whole: nothing of it beyond an edge."""
    (right,) = matches(reading := recognise(picture), (wanted,))
    edges = np.ones(picture.shape[:2], bool)
    edges[1:-1, 1:-1] = False
    return (
        all(right.values())
        and len(reading.items) == 1
        and not bool((reading.items[0].mask & edges).any())
    )


def test_a_demo_shows_its_edit_and_keeps_the_background(shipped: Any) -> None:
    name, prompt, pictures = shipped
    before, after = SHIPPED[name]
    (source,), edits = pictures["source"], pictures["p2p"]
    assert shows(source, before)
    assert len(edits) == len(after)
    blended = any(node["class_type"] == "P2P_LocalBlend" for node in prompt.values())
    for edit, wanted in zip(edits, after, strict=True):
        assert wanted is None or shows(edit, wanted)
        kept = background_psnr(source, edit, (recognise(source), recognise(edit)))
        assert kept >= (LEAST_BLENDED if blended else LEAST)


def test_a_demos_thumbnail_is_of_a_run(shipped: Any) -> None:
    """Made again by `python -m p2p_core.lab.showcase.templates` where a workflow changes."""
    name, _, pictures = shipped
    shown = [one for key in SHOWN.get(name, ("source", "p2p")) for one in pictures[key]][:3]
    kept = np.asarray(Image.open(FOLDER / f"{name}.jpg").convert("RGB"))
    made = np.asarray(strip(shown))
    assert made.shape == kept.shape
    assert psnr(made, kept) >= LEAST_THUMBNAIL


def test_a_reweighted_word_fades_with_its_factor(
    server: Server, object_info: dict[str, Any]
) -> None:
    pictures = run(server, read("3_reweight", object_info))
    (source,) = pictures["source"]
    strengths = [pattern_strength(source, one, "striped") for one in (source, *pictures["p2p"])]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > 0.8
    assert strengths[-1] < 0.2


@pytest.mark.parametrize(
    ("words", "replacement", "changes"),
    [
        ("red", "green", {"colour": "green"}),
        ("circle", "star", {"shape": "star"}),
    ],
)
def test_the_first_words_that_a_reader_tries_work_too(
    words: str,
    replacement: str,
    changes: Wanted,
    server: Server,
    object_info: dict[str, Any],
) -> None:
    """README's step 3 on the first demo, with its windows as they are."""
    prompt = read("1_word_swap", object_info)
    for node in prompt.values():
        if node["class_type"] == "P2P_WordSwap":
            node["inputs"].update(words=words, replacement=replacement)
    saved = {PREFIX + "source", PREFIX + "p2p"}
    wanted_outputs = {
        key: node
        for key, node in prompt.items()
        if node["class_type"] != "SaveImage" or node["inputs"]["filename_prefix"] in saved
    }
    pictures = run(server, wanted_outputs)
    (source,), (edit,) = pictures["source"], pictures["p2p"]
    assert shows(edit, {**CIRCLE, **changes})
    assert background_psnr(source, edit, (recognise(source), recognise(edit))) >= LEAST


def test_a_second_pass_keeps_edit_and_background(
    server: Server, object_info: dict[str, Any]
) -> None:
    """The template's twin on the demo model, looked at in the size that the renderer knows."""
    name = "18_hires_fix_sdxl"
    pictures = run(server, twin(name, read(name, object_info), object_info))
    source, edit = (
        np.asarray(Image.fromarray(one).resize((128, 128), Image.Resampling.BOX))
        for one in (*pictures["source"], *pictures["p2p"])
    )
    before, after = recognise(source), recognise(edit)
    assert [one.colour for one in before.items] == ["red"]
    assert [one.colour for one in after.items] == ["green"]
    assert background_psnr(source, edit, (before, after)) >= LEAST
