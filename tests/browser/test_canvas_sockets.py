"""Sockets of the pack on the canvas: their colours, and as many as are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from person import FIND, Person, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT

SWAP, CONTROLLER = "P2P Word Swap", "P2P Controller"
TYPES = ("P2P_EDIT", "P2P_CONTROLLER", "P2P_RUN", "P2P_INVERSION")

EDIT_SOCKETS = f"""name => ({FIND})(name).inputs.map(one => one.name)
    .filter(name => name.startsWith('edit_'))"""


@pytest.fixture
def person(page: Any) -> Iterator[Person]:
    """Someone before the page, on which nothing may go wrong."""
    yield Person(page)
    assert page.errors == []


def sockets_are(person: Person, count: int) -> None:
    names = [f"edit_{n}" for n in range(1, count + 1)]
    wait_until(
        lambda: person.page.evaluate(EDIT_SOCKETS, CONTROLLER) == names, f"{names}", seconds=30
    )


def test_a_controller_has_one_socket_to_spare(
    person: Person, keep: Callable[[Any, str], None]
) -> None:
    """A workflow saved with eight opens with two; a second edit brings a third, up to eight."""
    page = person.page
    load(page, ROOT / "workflows" / "1_word_swap.json")
    sockets_are(person, 2)
    person.drag((300, 900), (300, 730))  # makes room below
    second = person.add(SWAP, (240, 720))
    sockets_are(person, 2)
    person.link(second, "edit", CONTROLLER, "edit_2")
    sockets_are(person, 3)
    keep(page, "sockets")
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (controller,) = (one for one in prompt.values() if one["class_type"] == "P2P_Controller")
    assert {"edit_1", "edit_2"} == {key for key in controller["inputs"] if key.startswith("edit")}
    text = page.evaluate("() => JSON.parse(JSON.stringify(window.app.graph.serialize()))")
    page.evaluate("workflow => window.app.loadGraphData(workflow)", text)
    sockets_are(person, 3)
    assert page.evaluate("async () => (await window.app.graphToPrompt()).output") == prompt
    for number in range(3, 9):
        page.evaluate(
            f"""([swap, controller, name]) => {{
                const copy = window.LiteGraph.createNode('P2P_WordSwap')
                window.app.graph.add(copy)
                copy.connect(0, ({FIND})(controller), name)
                document.dispatchEvent(new Event('change'))
            }}""",
            [second, CONTROLLER, f"edit_{number}"],
        )
        sockets_are(person, min(number + 1, 8))


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_the_packs_types_have_colours_of_their_own(palette: str, person: Person) -> None:
    page = person.page
    page.evaluate(
        "one => window.app.extensionManager.setting.set('Comfy.ColorPalette', one)", palette
    )
    load(page, ROOT / "workflows" / "1_word_swap.json")
    colours = """types => types.map(type =>
        window.app.canvas.default_connection_color_byType[type])"""

    def distinct() -> bool:
        page.evaluate("() => document.dispatchEvent(new Event('change'))")
        found = page.evaluate(colours, list(TYPES))
        return all(found) and len(set(found)) == len(TYPES)

    wait_until(distinct, "four colours", seconds=30)
    if page.mode != "classic":
        node = page.evaluate(f"name => ({FIND})(name).id", SWAP)
        shown = page.locator(f"[data-slot-key='{node}-out-0']").evaluate_all(
            "all => all.flatMap(one => [one, ...one.querySelectorAll('*')])"
            ".map(one => getComputedStyle(one).backgroundColor)"
        )
        assert "rgb(20, 184, 166)" in shown
    page.evaluate(
        "one => window.app.extensionManager.setting.set('Comfy.ColorPalette', one)", "dark"
    )
