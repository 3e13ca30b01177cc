"""Someone before the canvas, with a mouse and a keyboard, in either of its modes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import wait_until

from p2p_core.hosts.launch.server import Server

PATIENCE = 120
"""Seconds; generous, because a small machine may be busy."""

Point = tuple[float, float]

DRAWN = """async () => {
    for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame)
}"""
"""After it the canvas is fitted and drawn as it now is."""

ON_SCREEN = """(canvas, [x, y]) => {
    const {left, top} = canvas.canvas.getBoundingClientRect()
    const {scale, offset} = canvas.ds
    return [(x + offset[0]) * scale + left, (y + offset[1]) * scale + top]
}"""
STILL = """() => !document.querySelector('input:focus, .p-dialog-mask, .graphdialog')
    && document.getAnimations().every(one => one.playState !== 'running'
        || one.effect.getTiming().iterations === Infinity)"""
"""No box is open, and none is on its way out, where it would take the next click."""
OFFERED = """title => {
    const offers = [...document.querySelectorAll('[role=option], [role=dialog] *')]
        .filter(one => one.textContent.trim().startsWith(title))
    return document.querySelector('[role=option][data-p-focus]')
        ? offers.some(one => one.dataset.pFocus === 'true') : offers.length > 0
}"""
"""The search offers a node of this title; where Enter takes what is marked, it is marked."""
FIND = """name => window.app.graph.nodes.find(node => String(node.id) === name
    || node.title === name || node.title.startsWith(name + ' ('))"""
"""The node of an id or a title, which may say more in brackets."""
PICTURES = """node => (node.imgs?.length || window.app.nodeOutputs[node.id]?.images?.length) ?? 0"""
"""How many pictures a node shows."""


def load(
    page: Any, path: Path, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Open a workflow as the template browser does; returns it.

    `changes` are values of its widgets, by the node's type.
    """
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.errors.clear()
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function(
        "count => window.app.graph.nodes.length === count", arg=len(workflow["nodes"])
    )
    if page.mode != "classic":
        page.wait_for_function(
            "count => document.querySelectorAll('[data-node-id]').length === count",
            arg=len(workflow["nodes"]),
        )
    page.evaluate(
        """changes => {
            for (const node of window.app.graph.nodes) for (const widget of node.widgets ?? [])
                widget.value = changes[node.type]?.[widget.name] ?? widget.value
        }""",
        dict(changes or {}),
    )
    page.evaluate(DRAWN)
    return workflow


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
    """Someone with a mouse and a keyboard; every click, double click and drag is counted.

    Nodes are named by their ids or titles.
    """

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

    def add(self, title: str, where: Point) -> str:
        """Put a node on the canvas: a double click, its name, Enter, and where it goes.

        Newer hosts let the node hang at the pointer until a click puts it down. Returns its id.
        """
        before = self.count()
        self.actions += 1

        def choose() -> None:
            if self.count() > before:  # a busy frontend's node came late
                return
            box = self.page.locator("input:focus")
            if not box.count():
                box = open_search(self.page, where)
            box.fill("")
            box.fill(title)
            self.page.wait_for_function(OFFERED, arg=title)
            self.page.keyboard.press("Enter")

        more = "count => window.app.graph.nodes.length > count"
        again_until(
            choose,
            lambda patience: self.page.wait_for_function(more, arg=before, timeout=patience),
        )
        self.page.wait_for_function(STILL)
        if self.page.evaluate("() => window.app.graph.nodes.some(node => node.flags?.ghost)"):
            self.click(where)
        self.page.wait_for_function("() => !window.app.graph.nodes.some(node => node.flags?.ghost)")
        return str(self.page.evaluate("() => window.app.graph.nodes.at(-1).id"))

    def count(self) -> int:
        return self.page.evaluate("() => window.app.graph.nodes.length")

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a node on the screen, its title included."""
        node = str(self.page.evaluate(f"name => ({FIND})(name).id", name))
        if self.page.mode != "classic":
            seen = self.page.locator(f"[data-node-id='{node}']").bounding_box()
            left, top = seen["x"], seen["y"]
            return left, top, left + seen["width"], top + seen["height"]
        return tuple(
            self.page.evaluate(
                f"""name => {{
                    const [x, y, width, height] = ({FIND})(name).getBounding()
                    const place = at => ({ON_SCREEN})(window.app.canvas, at)
                    return [...place([x, y]), ...place([x + width, y + height])]
                }}""",
                node,
            )
        )

    def select(self, name: str) -> None:
        """Click a node's title."""
        left, top, right, _ = self.box(name)
        self.click(((left + right) / 2, top + 10))

    def socket(self, name: str, slot: str, *, output: bool = False) -> Point:
        """Where a person sees a node's socket."""
        node, number, place = self.page.evaluate(
            f"""([name, slot, output]) => {{
                const node = ({FIND})(name)
                const slots = output ? node.outputs : node.inputs
                const number = slots.findIndex(one => one.name === slot)
                const at = node.getConnectionPos(!output, number)
                return [node.id, number, ({ON_SCREEN})(window.app.canvas, at)]
            }}""",
            [name, slot, output],
        )
        if self.page.mode == "classic":
            return place
        key = f"{node}-{'out' if output else 'in'}-{number}"
        dot = self.page.locator(f"[data-slot-key='{key}']").first.bounding_box()
        return dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2

    def link(self, origin: str, output: str, target: str, name: str) -> None:
        """Drag from an output to an input."""
        linked = (
            f"([title, name]) => ({FIND})(title).inputs.find(one => one.name === name).link != null"
        )
        again_until(
            lambda: self.drag(self.socket(origin, output, output=True), self.socket(target, name)),
            lambda patience: self.page.wait_for_function(
                linked, arg=[target, name], timeout=patience
            ),
        )

    def write(self, name: str, widget: str, value: str) -> None:
        """Write a value into a node's widget: a click, and the keyboard."""
        if self.page.mode == "classic":
            self._write_on_the_canvas(name, widget, value)
        else:
            node = self.page.evaluate(f"name => ({FIND})(name).id", name)
            row = self.page.locator(f"[data-node-id='{node}'] [data-testid=node-widget]")
            box = row.filter(has=self.page.get_by_text(widget, exact=True)).locator(
                "input:not([type=range])"
            )
            seen = box.bounding_box()
            self.click((seen["x"] + seen["width"] / 2, seen["y"] + seen["height"] / 2))
            box = self.page.locator("input:focus")
            box.fill(value)
            box.press("Enter")
        self.page.wait_for_function(
            f"([title, name, value]) => String(({FIND})(title).widgets"
            ".find(one => one.name === name).value) === value",
            arg=[name, widget, value],
        )

    def put(self, name: str, **values: Any) -> None:
        """Set a node's values as nobody could, before what is driven by hand."""
        self.page.evaluate(
            f"""([name, values]) => {{
                for (const one of ({FIND})(name).widgets) one.value = values[one.name] ?? one.value
                document.dispatchEvent(new Event('change'))
            }}""",
            [name, values],
        )

    def choose(self, name: str, widget: str, option: str) -> None:
        """Choose an option of a node's widget on the canvas, where it is drawn, from its menu."""
        self._click_on_the_canvas(name, widget)
        self.page.locator(".litemenu-entry").get_by_text(option, exact=True).click()

    def _click_on_the_canvas(self, name: str, widget: str) -> None:
        self.click(
            self.page.evaluate(
                f"""([name, widget]) => {{
                    const node = ({FIND})(name)
                    const found = node.widgets.find(one => one.name === widget)
                    const y = (found.last_y ?? found.y) + 12
                    return ({ON_SCREEN})(
                        window.app.canvas, [node.pos[0] + node.size[0] / 2, node.pos[1] + y])
                }}""",
                [name, widget],
            )
        )

    def _write_on_the_canvas(self, name: str, widget: str, value: str) -> None:
        self._click_on_the_canvas(name, widget)
        box = self.page.locator(".graphdialog input, textarea:focus").first
        box.wait_for()
        box.fill(value)
        if self.page.locator(".graphdialog").count():
            box.press("Enter")
        else:
            box.blur()

    def run(self, server: Server) -> dict[str, Any]:
        """Click Run; returns what the server then has of it in its history, at its end."""
        before = set(server.get("/history"))
        self.actions += 1
        self.page.get_by_role("button", name="Run", exact=True).first.click()  # once it is still
        (identity,) = wait_until(
            lambda: set(server.get("/history")) - before, "the prompt's run", seconds=PATIENCE
        )
        return server.get(f"/history/{identity}")[identity]

    def read(self, name: str, text: str) -> str:
        """Wait until a text, or one with it, is written on a node; returns all of its line."""

        def written() -> str:
            left, top, right, bottom = self.box(name)  # which grows with what is written
            for one in self.page.get_by_text(text).all():
                if one.is_visible() and (seen := one.bounding_box()):
                    x, y = seen["x"] + seen["width"] / 2, seen["y"] + seen["height"] / 2
                    if left < x < right and top < y < bottom:
                        return one.inner_text()
            return ""

        return wait_until(written, f"{text!r} on {name}", seconds=PATIENCE)

    def pictures(self, name: str) -> int:
        """How many pictures a node shows."""
        return self.page.evaluate(f"name => ({PICTURES})(({FIND})(name))", name)
