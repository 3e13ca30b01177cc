"""P2P Compare through the real server: its pictures, its captions, and images that do not match."""

from __future__ import annotations

from typing import Any

import pytest

from p2p_core.hosts.launch.server import PromptFailed, Server


def pictures(count: int, colour: int) -> dict[str, Any]:
    size = {"width": 16, "height": 24, "batch_size": count, "color": colour}
    return {"class_type": "EmptyImage", "inputs": size}


def graph(sources: int, edited: int, *, controller: bool = False) -> dict[str, Any]:
    """Red source images and blue edited ones; with a controller, of two edits."""
    swap = {"words": "red", "replacement": "blue", "occurrence": 1}
    windows = {"cross_replace_end": 0.8, "self_replace_end": 0.4, "self_replace_reach": 0.0}
    windows |= {"cross_replace_start": 0.0, "self_replace_start": 0.0}
    weigh = {"words": "striped: -1", "factor": 1.0, "window": "as the edits before it"}
    weigh |= {"window_start": 0.0, "window_end": 1.0, "self_replace_end": 0.4}
    compare = {"source": ["source", 0], "edited": ["edited", 0]}
    made = {
        "source": pictures(sources, 0xFF0000),
        "edited": pictures(edited, 0x0000FF),
        "compare": {"class_type": "P2P_Compare", "inputs": compare},
    }
    if not controller:
        return made
    compare["controller"] = ["controller", 0]
    prompt = {"source_prompt": "a striped red circle", "clip": ["demo", 1]}
    edits = {"edit_1": ["weigh", 0], "edit_2": ["other", 0]}
    return made | {
        "demo": {"class_type": "P2P_DemoCheckpoint", "inputs": {}},
        "swap": {"class_type": "P2P_WordSwap", "inputs": swap | windows},
        "weigh": {"class_type": "P2P_Reweight", "inputs": {**weigh, "edit": ["swap", 0]}},
        "other": {"class_type": "P2P_Reweight", "inputs": weigh},
        "controller": {"class_type": "P2P_Controller", "inputs": prompt | edits},
    }


def test_captions_are_the_edits(server: Server) -> None:
    output = server.queue(graph(2, 4, controller=True))["compare"]
    swapped, weighed = "red → blue, striped × −1", "striped × −1"
    assert output["captions"] == [
        *(f"{swapped} ({n} of 2)" for n in (1, 2)),
        *(f"{weighed} ({n} of 2)" for n in (1, 2)),
    ]


def test_the_pictures_are_those_given_and_numbered_without_a_controller(server: Server) -> None:
    output = server.queue(graph(1, 3))["compare"]
    assert output["captions"] == ["edit 1", "edit 2", "edit 3"]
    for key, colour, count in (("source", (255, 0, 0), 1), ("edited", (0, 0, 255), 3)):
        images = server.images({"compare": {"images": output[key]}})
        assert [image.size for image in images] == [(16, 24)] * count
        assert {image.convert("RGB").getpixel((0, 0)) for image in images} == {colour}
        assert {one["type"] for one in output[key]} == {"temp"}


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (graph(2, 3), "Expected a whole number of edited image"),
        (graph(1, 3, controller=True), "Expected 2 edited image.s. per source image, got 3 of 1"),
    ],
)
def test_images_of_another_run_are_refused(
    made: dict[str, Any], sentence: str, server: Server
) -> None:
    with pytest.raises(PromptFailed, match=sentence):
        server.queue(made)
