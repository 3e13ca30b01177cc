"""From an empty canvas to the first edit, as a person does it, counting what it takes."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from person import FIND, STILL, Person, open_search

from p2p_core.demo.recognise import matches, recognise
from p2p_core.hosts.launch.server import Server

MOST_NODES, MOST_ACTIONS = 8, 25
NOTHING = {
    **{"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": []},
    **{"groups": [], "config": {}, "extra": {}, "version": 0.4},
}


@pytest.fixture
def person(opened: Callable[[str], Any]) -> Iterator[Person]:
    """Someone before an empty canvas."""
    page = opened("classic")
    page.evaluate("nothing => window.app.loadGraphData(nothing)", NOTHING)
    page.wait_for_function("() => window.app.graph.nodes.length === 0")
    open_search(page, (700, 500))
    page.keyboard.press("Escape")
    page.wait_for_function(STILL)
    yield Person(page)
    page.close()


def has_blueprints(server: Server) -> bool:
    try:
        server.get("/global_subgraphs")
    except urllib.error.HTTPError:
        return False
    return True


def place_with_the_blueprint(person: Person) -> None:
    person.add("P2P Demo Checkpoint", (260, 180))
    person.add("Empty Latent Image", (260, 420))
    person.add("Prompt-to-Prompt edit", (750, 200))
    person.add("Preview Image", (1200, 180))
    person.add("Save Image", (1200, 480))
    edit = "Prompt-to-Prompt edit"
    for name in ("model", "clip", "vae"):
        person.link("P2P Demo Checkpoint", name, edit, name)
    person.link("Empty Latent Image", "LATENT", edit, "latent")
    person.link(edit, "edited", "Preview Image", "images")
    person.link(edit, "source", "Save Image", "images")
    person.write(edit, "source_prompt", "a red circle on the grass")
    person.write(edit, "words", "red")
    person.write(edit, "replacement", "blue")


def place_single_nodes(person: Person) -> None:
    person.add("P2P Demo Checkpoint", (100, 130))
    person.add("P2P Word Swap", (100, 300))
    person.add("CLIP Text Encode (Prompt)", (100, 830))
    person.add("P2P Controller", (540, 130))
    person.add("Empty Latent Image", (560, 720))
    person.add("P2P KSampler", (990, 130))
    person.add("VAE Decode", (1390, 130))
    person.add("Preview Image", (1390, 260))
    person.link("P2P Demo Checkpoint", "model", "P2P KSampler", "model")
    person.link("P2P Demo Checkpoint", "clip", "P2P Controller", "clip")
    person.link("P2P Demo Checkpoint", "clip", "CLIP Text Encode (Prompt)", "clip")
    person.link("P2P Demo Checkpoint", "vae", "VAE Decode", "vae")
    person.link("P2P Word Swap", "edit", "P2P Controller", "edit_1")
    person.link("P2P Controller", "controller", "P2P KSampler", "controller")
    person.link("CLIP Text Encode (Prompt)", "CONDITIONING", "P2P KSampler", "negative")
    person.link("Empty Latent Image", "LATENT", "P2P KSampler", "latent_image")
    person.link("P2P KSampler", "edited", "VAE Decode", "samples")
    person.link("VAE Decode", "IMAGE", "Preview Image", "images")
    person.write("P2P Controller", "source_prompt", "a red circle on the grass")
    person.write("P2P Word Swap", "words", "red")
    person.write("P2P Word Swap", "replacement", "blue")


def test_a_first_edit_takes_few_nodes_and_few_actions(
    person: Person, server: Server, keep: Callable[[Any, str], None]
) -> None:
    if has_blueprints(server):
        place_with_the_blueprint(person)
    else:
        place_single_nodes(person)
    for side in ("width", "height"):
        person.write("Empty Latent Image", side, "128")
    preview = str(person.page.evaluate(f"({FIND})('Preview Image').id"))
    entry = person.run(server)
    assert entry["status"]["status_str"] == "success"
    shown = {key: one for key, one in entry["outputs"].items() if key == preview}
    (picture,) = server.images(shown)
    (right,) = matches(
        recognise(np.asarray(picture.convert("RGB"))), ({"colour": "blue", "shape": "circle"},)
    )
    assert all(right.values())
    keep(person.page, "first_edit")
    assert person.count() <= MOST_NODES
    assert person.actions <= MOST_ACTIONS
