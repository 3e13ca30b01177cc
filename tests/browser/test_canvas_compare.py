"""P2P Compare on the canvas, driven as a person would in each of its modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from person import DRAWN, FIND, Person, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server

FEW = {"KSampler": {"steps": 4}, "P2P_KSampler": {"steps": 4}}
COMPARE, CONTROLLER = "P2P Compare", "P2P Controller"

BUILD = f"""() => {{
    const graph = window.app.graph
    const saving = [...graph.nodes].filter(node => node.type === 'SaveImage')
    for (const node of saving) graph.remove(node)
    const add = (kind, at) => {{
        const node = window.LiteGraph.createNode(kind)
        node.pos = at
        graph.add(node)
        return node
    }}
    const compare = add('P2P_Compare', [1440, 180])
    const find = {FIND}
    const [source, edited] = graph.nodes.filter(node => node.type === 'VAEDecode')
    source.connect(0, compare, 0)
    edited.connect(0, compare, 1)
    find('{CONTROLLER}').connect(0, compare, 2)
    const shapes = add('P2P_WordSwap', [0, 1000])
    shapes.widgets[0].value = 'circle'
    shapes.widgets[1].value = 'star'
    shapes.connect(0, find('{CONTROLLER}'), 'edit_2')
}}"""
"""Two edits, compared."""


@pytest.fixture(params=["dark", "light"])
def person(request: pytest.FixtureRequest, page: Any) -> Iterator[Person]:
    """Someone before the page, in either palette, on which nothing may go wrong."""
    set_palette = "one => window.app.extensionManager.setting.set('Comfy.ColorPalette', one)"
    page.palette = request.param
    page.evaluate(set_palette, request.param)
    yield Person(page)
    page.evaluate(set_palette, "dark")
    assert page.errors == []


def view(person: Person, part: str) -> Any:
    """A part of the node's view, where it is there."""
    handle = person.page.evaluate_handle(
        f"""([name, part]) => ({FIND})(name).widgets
            .find(one => one.name === 'p2p_compare').element.querySelector(part)""",
        [COMPARE, part],
    )
    return handle.as_element()


def click(person: Person, text: str) -> None:
    button = person.page.evaluate_handle(
        f"""([name, text]) => [...({FIND})(name).widgets
            .find(one => one.name === 'p2p_compare').element.querySelectorAll('button')]
            .find(one => one.textContent === text)""",
        [COMPARE, text],
    ).as_element()
    box = button.bounding_box()
    person.click((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))


def shown(person: Person) -> list[str]:
    """Files of the pictures that are loaded: the edit's, then the source's."""
    return person.page.evaluate(
        f"""name => [...({FIND})(name).widgets.find(one => one.name === 'p2p_compare')
            .element.querySelectorAll('img')].filter(one => one.naturalWidth > 0)
            .map(one => new URL(one.src).searchParams.get('filename'))""",
        COMPARE,
    )


def test_source_and_edits_are_compared(
    person: Person, server: Server, keep: Callable[[Any, str], None]
) -> None:
    page = person.page
    load(page, ROOT / "workflows" / "1_word_swap.json", FEW)
    page.evaluate(BUILD)
    entry = person.run(server)
    assert entry["status"]["status_str"] == "success"
    (output,) = (one for one in entry["outputs"].values() if "captions" in one)
    assert output["captions"] == ["red → blue", "circle → star"]
    files = [image["filename"] for image in output["edited"]]
    source = output["source"][0]["filename"]
    wait_until(lambda: shown(person) == [files[0], source], "the first edit over the source")

    stage = view(person, ".p2p-pictures").bounding_box()
    least = page.evaluate("() => 200 * window.app.canvas.ds.scale")
    assert min(stage["width"], stage["height"]) > least, "small pictures are enlarged"
    middle = stage["y"] + stage["height"] / 2
    start, end = (stage["x"] + part * stage["width"] for part in (0.5, 0.2))
    person.drag((start, middle), (end, middle))
    at = "name => getComputedStyle(name).getPropertyValue('--at')"
    line = view(person, ".p2p-line").bounding_box()
    assert abs(line["x"] - end) < 0.08 * stage["width"]
    before = view(person, ".p2p-pictures").evaluate(at)
    page.keyboard.press("ArrowRight")
    assert view(person, ".p2p-pictures").evaluate(at) != before
    keep(page, f"compare_slider_{page.palette}")

    click(person, "circle → star")
    wait_until(lambda: shown(person) == [files[1], source], "the second edit")
    click(person, "Difference")
    blend = "one => getComputedStyle(one).mixBlendMode"
    assert view(person, ".p2p-source").evaluate(blend) == "difference"
    assert view(person, ".p2p-slide") is None
    wait_until(lambda: shown(person) == [files[1], source], "the same two")
    keep(page, f"compare_difference_{page.palette}")
    click(person, "Slider")
    assert view(person, ".p2p-slide") is not None


def test_it_is_saved_and_loaded_as_any_node(person: Person) -> None:
    page = person.page
    load(page, ROOT / "workflows" / "1_word_swap.json", FEW)
    page.evaluate(BUILD)
    text = page.evaluate("() => JSON.parse(JSON.stringify(window.app.graph.serialize()))")
    (node,) = (one for one in text["nodes"] if one["type"] == "P2P_Compare")
    assert not any(node.get("widgets_values") or [])
    prompt = "async () => (await window.app.graphToPrompt()).output"
    before = page.evaluate(prompt)
    page.evaluate("workflow => window.app.loadGraphData(workflow)", text)
    page.evaluate(DRAWN)
    assert page.evaluate(prompt) == before
