"""The shipped workflows on the canvas: complete, readable, and they run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from person import DRAWN, PICTURES, Person, load
from shipped import WORKFLOWS, skip_if_newer

from p2p_core.hosts.launch.frontend import pins
from p2p_core.hosts.launch.locate import Host
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import NOTES, to_prompt

DEMOS = [path for path in WORKFLOWS if "P2P_DemoCheckpoint" in path.read_text(encoding="utf-8")]
LEAST_SCALE = 0.6
"""Below it the classic canvas writes no text."""

BOXES = {
    "classic": """() => window.app.graph.nodes.map(node => {
        const [x, y, width, height] = node.getBounding()
        return {name: node.title, x, y, width, height}
    })""",
    "nodes-2.0": """() => {
        const scale = window.app.canvas.ds.scale
        return [...document.querySelectorAll('[data-node-id]')].map(element => {
            const {x, y, width, height} = element.getBoundingClientRect()
            const node = window.app.graph.getNodeById(element.dataset.nodeId)
            return {name: node.title, x: x / scale, y: y / scale,
                    width: width / scale, height: height / scale}
        })
    }""",
}
"""What each node covers on the canvas, titles included, by mode."""


def overlaps(page: Any) -> list[tuple[str, str]]:
    """Pairs of nodes that cover each other, by title."""
    return [
        (a["name"], b["name"])
        for a, b in combinations(page.evaluate(BOXES[page.mode]), 2)
        if a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] < b["y"] + b["height"]
        and b["y"] < a["y"] + a["height"]
    ]


def test_the_frontend_is_the_one_that_the_hosts_requirements_name(page: Any, host: Host) -> None:
    served = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    assert served == pins(host)["comfyui-frontend-package"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_complete_and_means_what_the_server_runs(
    path: Path, page: Any, server: Server, host: Host
) -> None:
    skip_if_newer(path, host)
    workflow = load(page, path)
    missing = page.evaluate(
        "() => window.app.graph.nodes.map(node => node.type)"
        ".filter(type => !(type in window.LiteGraph.registered_node_types))"
    )
    assert missing == []
    assert page.locator("text=/missing node/i").count() == 0
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    mine = to_prompt(workflow, server.get("/object_info"))
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in mine.items()
    }
    assert page.errors == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_be_read_as_it_opens(
    path: Path, page: Any, host: Host, keep: Callable[[Any, str], None]
) -> None:
    skip_if_newer(path, host)
    workflow = load(page, path)
    page.wait_for_function("least => window.app.canvas.ds.scale >= least", arg=LEAST_SCALE)
    assert len(page.evaluate(BOXES[page.mode])) == len(workflow["nodes"])
    assert overlaps(page) == []
    assert page.errors == []
    keep(page, path.stem)


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_runs_from_the_canvas_and_shows_its_pictures(
    path: Path, page: Any, server: Server, keep: Callable[[Any, str], None]
) -> None:
    load(page, path)
    assert Person(page).run(server)["status"]["status_str"] == "success"
    page.wait_for_function(
        f"() => window.app.graph.nodes.filter(node => node.type === 'SaveImage').every({PICTURES})"
    )
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    page.evaluate(DRAWN)
    assert overlaps(page) == [], "pictures and reports make nodes taller"
    assert page.errors == []
    keep(page, f"{path.stem}-run")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_long_wires_end_at_no_socket_but_their_own(path: Path, page: Any, host: Host) -> None:
    """No straight part of a wire from a loader crosses a node's left edge where its sockets are.

    Links are drawn below nodes, so one that runs behind a node seems to end at it.
    """
    skip_if_newer(path, host)
    load(page, path)
    hidden = page.evaluate(
        """() => {
            const graph = window.app.graph, found = []
            const controllers = graph.nodes.filter(node => node.type === 'P2P_Controller')
            for (const link of graph.links.values()) {
                const from = graph.getNodeById(link.origin_id)
                const to = graph.getNodeById(link.target_id)
                if (to.type === 'P2P_Controller' || from.type === 'P2P_Controller') continue
                const points = [from.getConnectionPos(false, link.origin_slot)]
                const places = []
                let place = graph.reroutes.get(link.parentId)
                while (place) {
                    places.unshift(place.pos)
                    place = graph.reroutes.get(place.parentId)
                }
                points.push(...places, to.getConnectionPos(true, link.target_slot))
                for (let i = 1; i < points.length; i++) for (const node of controllers) {
                    const [x, y, , height] = node.getBounding()
                    const [a, b] = [points[i - 1], points[i]]
                    if (a[0] >= x || b[0] <= x) continue
                    const at = a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])
                    if (at > y && at < y + height) found.push([from.title, to.title, node.title])
                }
            }
            return found
        }"""
    )
    assert hidden == []


def test_the_notes_are_for_people(page: Any) -> None:
    """A note is shown with its text, and is no part of the prompt."""
    load(page, DEMOS[0])
    types = page.evaluate(
        "async () => Object.values((await window.app.graphToPrompt()).output)"
        ".map(node => node.class_type)"
    )
    assert not NOTES & set(types)
    page.get_by_text("Swap a word", exact=True).first.wait_for()
