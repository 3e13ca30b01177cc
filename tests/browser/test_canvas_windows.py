"""Presets and windows on edits, chosen and dragged as a person would in each of the modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from person import FIND, STILL, Person, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.presets import PRESETS

SWAP, CONTROLLER = "P2P Word Swap", "P2P Controller"
CROSS, SELF, START = "cross_replace_end", "self_replace_end", "cross_replace_start"
CUSTOM = "custom"


@pytest.fixture
def person(page: Any) -> Iterator[Person]:
    """Someone before the page, on which nothing may go wrong."""
    yield Person(page)
    assert page.errors == []


def part(person: Person, selector: str, node: str = SWAP) -> Any:
    """A part of the panel of windows on a node."""
    return person.page.evaluate_handle(
        f"""([name, selector]) => ({FIND})(name).widgets
            .find(one => one.name === 'p2p_windows').element.querySelector(selector)""",
        [node, selector],
    ).as_element()


def choose(person: Person, preset: str, node: str = SWAP) -> None:
    """From the node's own widget; Nodes 2.0 folds that away, so that the panel has one."""
    if person.page.mode == "classic":
        person.choose(node, "preset", preset)
        return
    wait_until(lambda: part(person, "select", node).is_visible(), "the presets", seconds=30)
    part(person, "select", node).select_option(preset)


def drag(person: Person, end: str, share: float, node: str = SWAP) -> None:
    """Drag an end of a window from where it is to this share of the band."""
    slider = part(person, f"[data-key={end}]", node)
    box, at = slider.bounding_box(), float(slider.input_value())
    half = 3.5 * person.page.evaluate("() => window.app.canvas.ds.scale")
    y = box["y"] + box["height"] / 2
    left, width = box["x"] + half, box["width"] - 2 * half
    person.drag((left + at * width, y), (left + share * width, y))


def state(person: Person, node: str = SWAP) -> list[Any]:
    """The preset, and the ends of the windows, as the inputs have them."""
    return person.page.evaluate(
        f"""([node, names]) => names.map(name =>
            ({FIND})(node).widgets.find(one => one.name === name).value)""",
        [node, ["preset", CROSS, SELF]],
    )


def becomes(person: Person, expected: list[Any], node: str = SWAP) -> None:
    wait_until(lambda: state(person, node) == expected, f"{expected} on {node}", seconds=30)


def drawn(person: Person, node: str = SWAP) -> list[str]:
    """What the panel says: its preset and both windows."""
    said = [part(person, f".p2p-{name}", node) for name in ("cross_replace", "self_replace")]
    windows = [one.evaluate("one => one.parentNode.querySelector('output').value") for one in said]
    chosen = part(person, "select", node)
    return [chosen.input_value() if chosen else state(person, node)[0], *windows]


def shows(person: Person, expected: list[str], node: str = SWAP) -> None:
    wait_until(lambda: drawn(person, node) == expected, f"{expected} on {node}", seconds=30)


def undo(person: Person) -> None:
    """Undo a step, with the focus on the canvas."""
    person.select(CONTROLLER)
    person.page.keyboard.press("Control+z")


@pytest.mark.parametrize(("name", "node"), [("1_word_swap", SWAP), ("2_refine", "P2P Refine")])
def test_a_preset_fills_the_windows_in_and_a_value_makes_it_custom(
    name: str, node: str, person: Person, keep: Callable[[Any, str], None]
) -> None:
    """Chosen, typed over, chosen again, dragged; what was filled in is undone in the same step."""
    page = person.page
    load(page, ROOT / "workflows" / f"{name}.json")
    before, seen = state(person, node), drawn(person, node)
    choose(person, "remove", node)
    removing = PRESETS["remove"]
    becomes(person, ["remove", removing.cross_end, removing.self_end], node)
    undo(person)
    becomes(person, before, node)
    shows(person, seen, node)
    style, adding = PRESETS["style"], PRESETS["add"]
    choose(person, "style", node)
    becomes(person, ["style", style.cross_end, style.self_end], node)
    shows(person, ["style", f"0–{style.cross_end:g}", f"0–{style.self_end:g}"], node)
    keep(page, f"windows_{name}")
    person.write(node, CROSS, "0.66")
    becomes(person, [CUSTOM, 0.66, style.self_end], node)
    shows(person, [CUSTOM, "0–0.66", f"0–{style.self_end:g}"], node)
    choose(person, "add", node)
    becomes(person, ["add", adding.cross_end, adding.self_end], node)
    shows(person, ["add", f"0–{adding.cross_end:g}", f"0–{adding.self_end:g}"], node)
    drag(person, SELF, 0.75, node)
    wait_until(lambda: state(person, node)[0] == CUSTOM, "a preset of one's own", seconds=30)
    _, cross, outlines = state(person, node)
    assert cross == adding.cross_end
    assert outlines == pytest.approx(0.75, abs=0.03)
    shows(person, [CUSTOM, f"0–{cross:g}", f"0–{outlines:g}"], node)
    undo(person)
    becomes(person, ["add", adding.cross_end, adding.self_end], node)


def test_windows_are_dragged_at_both_ends_and_with_the_keyboard(person: Person) -> None:
    """An end stays behind its start."""
    page = person.page
    load(page, ROOT / "workflows" / "1_word_swap.json")
    person.put(SWAP, **{CROSS: 0.8, SELF: 0.4, START: 0.0})
    shows(person, [CUSTOM, "0–0.8", "0–0.4"])
    drag(person, START, 0.5)
    start = page.evaluate(
        f"name => ({FIND})(name).widgets.find(one => one.name === '{START}').value", SWAP
    )
    assert start == pytest.approx(0.5, abs=0.03)
    shows(person, [CUSTOM, f"{start:g}–0.8", "0–0.4"])
    drag(person, CROSS, 0.2)
    shows(person, [CUSTOM, f"{start:g}–{start:g}", "0–0.4"])
    page.keyboard.press("ArrowRight")
    becomes(person, [CUSTOM, pytest.approx(start + 0.01), 0.4])


def test_a_saved_preset_is_drawn_as_it_will_run(person: Person) -> None:
    """Loading changes no value, not even one that the preset stands in for."""
    page = person.page
    load(page, ROOT / "workflows" / "1_word_swap.json")
    choose(person, "style")
    style = PRESETS["style"]
    becomes(person, ["style", style.cross_end, style.self_end])
    text = page.evaluate("() => JSON.parse(JSON.stringify(window.app.graph.serialize()))")
    (node,) = (one for one in text["nodes"] if one["type"] == "P2P_WordSwap")
    node["widgets_values"] = [0.11 if v == style.cross_end else v for v in node["widgets_values"]]
    page.evaluate("workflow => window.app.loadGraphData(workflow)", text)
    page.wait_for_function(STILL)
    shows(person, ["style", f"0–{style.cross_end:g}", f"0–{style.self_end:g}"])
    assert state(person) == ["style", 0.11, style.self_end]
