"""From an empty canvas to the first edit, as a person does it, counting what it takes."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

from p2p_core.demo.recognise import matches, recognise
from p2p_core.hosts.launch.server import Server

MOST_NODES, MOST_ACTIONS = 8, 30
PATIENCE = 120
"""Seconds; generous, because a small machine may be busy."""

NOTHING = {
    **{"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": []},
    **{"groups": [], "config": {}, "extra": {}, "version": 0.4},
}

Point = tuple[float, float]

ON_SCREEN = """(canvas, [x, y]) => {
    const {left, top} = canvas.canvas.getBoundingClientRect()
    const {scale, offset} = canvas.ds
    return [(x + offset[0]) * scale + left, (y + offset[1]) * scale + top]
}"""
STILL = """() => !document.querySelector('input:focus, .p-dialog-mask, .graphdialog')
    && document.getAnimations().every(one => one.playState !== 'running'
        || one.effect.getTiming().iterations === Infinity)"""
"""No box is open, and none is on its way out, where it would take the next click."""
FIND = """title => window.app.graph.nodes.find(
    node => node.title === title || node.title.startsWith(title + ' ('))"""
"""The node of a title, which may say more in brackets."""


def again_until(act: Callable[[], Any], happens: Callable[[float], Any]) -> None:
    """Do what a busy frontend may not yet listen to until it does; a person would wait instead.

    `happens` gets milliseconds, and raises Playwright's `TimeoutError` after them.
    """
    from playwright.sync_api import TimeoutError as NotYet

    for _ in range(PATIENCE // 2):
        act()
        try:
            happens(2000)
            return
        except NotYet:
            continue
    happens(1)


def open_search(page: Any, where: Point) -> Any:
    """Double-click the canvas; returns the search box that opens."""
    box = page.locator("input:focus")
    page.mouse.move(*where)
    again_until(
        lambda: page.mouse.dblclick(*where), lambda patience: box.wait_for(timeout=patience)
    )
    return box


@dataclass
class Person:
    """Someone with a mouse and a keyboard; every click, double click and drag is counted."""

    page: Any
    actions: int = 0

    def click(self, where: Point) -> None:
        self.actions += 1
        self.page.mouse.move(*where)
        self.page.mouse.click(*where)

    def drag(self, start: Point, end: Point) -> None:
        self.actions += 1
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
        mouse.move(*end, steps=4)
        mouse.up()

    def add(self, title: str, where: Point) -> None:
        """Put a node on the canvas: a double click, its name, Enter, and where it goes.

        Newer hosts let the node hang at the pointer until a click puts it down.
        """
        before = self.count()
        self.actions += 1
        box = open_search(self.page, where)
        box.fill(title)
        self.page.wait_for_function(
            "title => [...document.querySelectorAll('[role=option], [role=dialog] *')]"
            ".some(one => one.textContent.trim().startsWith(title))",
            arg=title,
        )
        more = "count => window.app.graph.nodes.length > count"
        again_until(
            lambda: self.page.keyboard.press("Enter"),
            lambda patience: self.page.wait_for_function(more, arg=before, timeout=patience),
        )
        self.page.wait_for_function(STILL)
        if self.page.evaluate("() => window.app.graph.nodes.some(node => node.flags?.ghost)"):
            self.click(where)
        self.page.wait_for_function("() => !window.app.graph.nodes.some(node => node.flags?.ghost)")

    def count(self) -> int:
        return self.page.evaluate("() => window.app.graph.nodes.length")

    def socket(self, title: str, name: str, *, output: bool = False) -> Point:
        """Where a person sees a node's socket."""
        return self.page.evaluate(
            f"""([title, name, output]) => {{
                const node = ({FIND})(title)
                const slots = output ? node.outputs : node.inputs
                const slot = slots.findIndex(one => one.name === name)
                return ({ON_SCREEN})(window.app.canvas, node.getConnectionPos(!output, slot))
            }}""",
            [title, name, output],
        )

    def link(self, origin: str, output: str, target: str, name: str) -> None:
        start = self.socket(origin, output, output=True)
        self.drag(start, self.socket(target, name))
        self.page.wait_for_function(
            f"([title, name]) => ({FIND})(title).inputs"
            ".find(one => one.name === name).link != null",
            arg=[target, name],
        )

    def write(self, title: str, widget: str, value: str) -> None:
        """Write a value into a node's widget: a click, and the keyboard."""
        self.click(
            self.page.evaluate(
                f"""([title, name]) => {{
                    const node = ({FIND})(title)
                    const widget = node.widgets.find(one => one.name === name)
                    const y = (widget.last_y ?? widget.y) + 12
                    return ({ON_SCREEN})(
                        window.app.canvas, [node.pos[0] + node.size[0] / 2, node.pos[1] + y])
                }}""",
                [title, widget],
            )
        )
        box = self.page.locator(".graphdialog input, textarea:focus").first
        box.wait_for()
        box.fill(value)
        if self.page.locator(".graphdialog").count():
            box.press("Enter")
        else:
            box.blur()
        self.page.wait_for_function(
            f"([title, name, value]) => String(({FIND})(title).widgets"
            ".find(one => one.name === name).value) === value",
            arg=[title, widget, value],
        )


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
    person.add("CLIP Text Encode (Prompt)", (100, 700))
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
    before = set(server.get("/history"))
    if has_blueprints(server):
        place_with_the_blueprint(person)
    else:
        place_single_nodes(person)
    for side in ("width", "height"):
        person.write("Empty Latent Image", side, "128")
    preview = str(person.page.evaluate(f"({FIND})('Preview Image').id"))
    run = person.page.get_by_role("button", name="Run", exact=True).first.bounding_box()
    person.click((run["x"] + run["width"] / 2, run["y"] + run["height"] / 2))
    (identity,) = wait_until(
        lambda: set(server.get("/history")) - before, "the prompt's run", seconds=PATIENCE
    )
    entry = server.get(f"/history/{identity}")[identity]
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
