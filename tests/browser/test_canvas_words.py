"""Words as buttons, changes in colour and mistakes on their node, in each of the canvas's modes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from person import DRAWN, FIND, STILL, Person, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SWAP, CONTROLLER, BLEND = "P2P Word Swap", "P2P Controller", "P2P Local Blend Mask"
WORDED = ("WordSwap", "Mix", "Refine", "Reweight", "LocalBlend", "AttentionMaps", "WordWeights")
CATS = "a cat beside a cat, both asleep"

ADD = """([kind, at]) => {
    const node = window.LiteGraph.createNode(kind)
    node.pos = at
    window.app.graph.add(node)
    return String(node.id)
}"""


@pytest.fixture
def person(page: Any) -> Iterator[Person]:
    """Someone before the page, on which nothing may go wrong."""
    yield Person(page)
    assert page.errors == []


def workflow(name: str) -> Path:
    return ROOT / "workflows" / f"{name}.json"


def panel(person: Person, node: str) -> Any:
    """The panel of words of a node."""
    handle = person.page.evaluate_handle(
        f"name => ({FIND})(name).widgets.find(one => one.name === 'p2p_words').element", node
    )
    return handle.as_element()


def said(person: Person, node: str) -> str:
    """All that is written on a node's panel, in a line."""
    return " ".join(panel(person, node).inner_text().split())


def says(person: Person, node: str, text: str) -> None:
    wait_until(lambda: text in said(person, node), f"{text!r} on {node}", seconds=30)


def chip(person: Person, node: str, text: str, row: int = 0, **keys: Any) -> None:
    """Click a word of a node's panel."""

    def found() -> Any:
        for button in panel(person, node).query_selector_all(".p2p-row, .p2p-mistake")[row:]:
            for one in button.query_selector_all("button"):
                if one.inner_text() == text and (box := one.bounding_box()):
                    return box
        return None

    box = wait_until(found, f"a button {text!r} on {node}", seconds=30)
    for key in keys:
        person.page.keyboard.down(key)
    person.click((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
    for key in keys:
        person.page.keyboard.up(key)


def pressed(person: Person, node: str) -> list[str]:
    chosen = panel(person, node).query_selector_all("[aria-pressed=true]")
    return [one.inner_text() for one in chosen]


def presses(person: Person, node: str, expected: list[str]) -> None:
    """Wait until these words are marked as chosen: a node is drawn anew after its input changed."""
    wait_until(lambda: pressed(person, node) == expected, f"{expected} on {node}", seconds=30)


def value(person: Person, node: str, widget: str) -> Any:
    return person.page.evaluate(
        f"([node, name]) => ({FIND})(node).widgets.find(one => one.name === name).value",
        [node, widget],
    )


def becomes(person: Person, node: str, widget: str, expected: Any) -> None:
    wait_until(
        lambda: value(person, node, widget) == expected, f"{widget} {expected!r}", seconds=30
    )


def saved(person: Person) -> dict[str, Any]:
    return person.page.evaluate("() => JSON.parse(JSON.stringify(window.app.graph.serialize()))")


def test_what_is_saved_is_loaded_with_the_same_values(person: Person) -> None:
    """On every node with a panel, each input with a value of its own; the panel has none."""
    page = person.page
    load(page, workflow("1_word_swap"))
    for n, kind in enumerate(WORDED):
        page.evaluate(ADD, [f"P2P_{kind}", [2000, 500 * n]])
    page.evaluate(
        """() => {
            let number = 0
            for (const node of window.app.graph.nodes) for (const one of node.widgets ?? []) {
                number += 1
                const text = typeof one.value === 'string' && one.type !== 'combo'
                if (text && one.serialize !== false)
                    one.value = `text ${number}`
            }
        }"""
    )
    values = """() => window.app.graph.nodes.map(node => [node.type,
        (node.widgets ?? []).filter(one => one.serialize !== false)
            .map(one => [one.name, one.value])])"""
    before, text = page.evaluate(values), saved(person)
    prompt = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
    sent = page.evaluate(prompt)
    assert "p2p_words" not in json.dumps(text) + sent
    page.evaluate("workflow => window.app.loadGraphData(workflow)", text)
    page.evaluate(DRAWN)
    assert page.evaluate(values) == before
    assert page.evaluate(prompt) == sent
    last = page.evaluate(
        """() => window.app.graph.nodes.filter(node => node.type.startsWith('P2P_'))
            .flatMap(node => (node.widgets ?? []).map((one, n) => [one, node.widgets.slice(n + 1)]))
            .filter(([one]) => one.name === 'p2p_words')
            .every(([one, rest]) => one.serialize === false
                && rest.every(other => other.serialize === false))"""
    )
    assert last, "behind the panel is nothing that is saved"


def test_a_word_is_chosen_with_a_click(person: Person, keep: Callable[[Any, str], None]) -> None:
    """The second cat by its number, several words with Shift, and back with undo."""
    page = person.page
    load(page, workflow("1_word_swap"))
    person.put(CONTROLLER, source_prompt=CATS)
    says(person, SWAP, "'red' is not in the prompt")
    keep(page, "unknown_word")
    chip(person, SWAP, "cat #2")
    becomes(person, SWAP, "words", "cat #2")
    says(person, SWAP, "a cat beside a cat → blue , both asleep")
    presses(person, SWAP, ["cat #2"])
    chip(person, SWAP, "asleep", Shift=True)
    becomes(person, SWAP, "words", "cat , both asleep")
    presses(person, SWAP, ["cat #2", "both", "asleep"])
    person.select(CONTROLLER)
    page.keyboard.press("Control+z")
    becomes(person, SWAP, "words", "cat #2")
    says(person, SWAP, "cat → blue")
    keep(page, "words")
    chip(person, SWAP, "cat")
    becomes(person, SWAP, "words", "cat #1")


def test_a_mistake_is_marked_before_a_run_and_mended_with_a_click(person: Person) -> None:
    """Two edits: the mistake is on its own node alone."""
    page = person.page
    load(page, workflow("4_local_blend"))
    person.put(BLEND, source_words="circl, grass")
    says(person, BLEND, "'circl' is not in the prompt. Did you mean circle")
    says(person, SWAP, "circle → star")
    chip(person, BLEND, "circle", row=2)
    becomes(person, BLEND, "source_words", "circle, grass")
    wait_until(lambda: "not in" not in said(person, BLEND), "no mistake", seconds=30)


def test_typing_shows_the_change_at_once(person: Person) -> None:
    load(person.page, workflow("1_word_swap"))
    says(person, SWAP, "red → blue")
    person.write(SWAP, "replacement", "dark green")
    says(person, SWAP, "red → dark green")
    person.write(SWAP, "words", "rad")
    says(person, SWAP, "Did you mean red")
    chip(person, SWAP, "red", row=1)
    becomes(person, SWAP, "words", "red")


def test_a_long_prompt_shows_its_changes_with_two_words_around(person: Person) -> None:
    load(person.page, workflow("1_word_swap"))
    long = "one two three four five six seven eight nine ten eleven red twelve thirteen fourteen"
    person.put(CONTROLLER, source_prompt=long)
    says(person, SWAP, "… ten eleven red → blue twelve thirteen …")


def test_refined_words_are_taken_out_and_put_back(
    person: Person, keep: Callable[[Any, str], None]
) -> None:
    page = person.page
    load(page, workflow("2_refine"))
    source = value(person, CONTROLLER, "source_prompt")
    refine = "P2P Refine"
    person.put(refine, edited_prompt="")
    chip(person, refine, "Start from the source prompt")
    becomes(person, refine, "edited_prompt", source)
    first, second, *rest = source.split()
    says(person, refine, "No word changes yet.")
    chip(person, refine, second)
    becomes(person, refine, "edited_prompt", " ".join([first, *rest]))
    wait_until(lambda: second not in pressed(person, refine), "taken out", seconds=30)
    keep(page, "refine_words")
    chip(person, refine, second)
    becomes(person, refine, "edited_prompt", source)


def test_words_are_put_into_lists_and_taken_out(
    person: Person, keep: Callable[[Any, str], None]
) -> None:
    page = person.page
    load(page, workflow("3_reweight"))
    node = "2"
    person.put(node, words="striped: -1")
    says(person, node, "striped × −1")
    presses(person, node, ["striped"])
    chip(person, node, "sand")
    becomes(person, node, "words", "striped: -1, sand")
    says(person, node, "sand ×")
    keep(page, "reweight_words")
    chip(person, node, "striped")
    becomes(person, node, "words", "sand")


def test_maps_and_word_weights_have_their_words(person: Person) -> None:
    page = person.page
    load(page, workflow("5_attention_maps"))
    maps = "P2P Attention Maps"
    person.put(maps, words="")
    chip(person, maps, "grass")
    becomes(person, maps, "words", "grass")
    person.put(maps, words="gras")
    says(person, maps, "Did you mean grass")
    weights = page.evaluate(ADD, ["P2P_WordWeights", [2000, 0]])
    person.put(weights, prompt="a (green:0.8) bag")
    wait_until(lambda: said(person, weights) == "a green bag", "its words", seconds=30)


def test_a_prompt_is_followed_to_where_it_is_written(person: Person) -> None:
    """Another node's text, through a reroute, a bypassed node, and out of a subgraph."""
    page = person.page
    load(page, workflow("1_word_swap"))
    page.evaluate(
        f"""() => {{
            const graph = window.app.graph
            const make = (kind, at) => {{
                const node = window.LiteGraph.createNode(kind)
                node.pos = at
                graph.add(node)
                return node
            }}
            const text = make('PrimitiveStringMultiline', [-900, 0])
            text.widgets[0].value = 'two dogs and two birds'
            const reroute = make('Reroute', [-500, 0])
            const controller = ({FIND})('{CONTROLLER}')
            const input = controller.inputs.findIndex(one => one.name === 'source_prompt')
            text.connect(0, reroute, 0)
            reroute.connect(0, controller, input)
            document.dispatchEvent(new Event('change'))
        }}"""
    )
    chip(person, SWAP, "two #2")
    becomes(person, SWAP, "words", "two #2")
    says(person, SWAP, "two dogs and two → blue birds")
    page.evaluate(
        f"""() => {{
            const graph = window.app.graph
            const text = graph.nodes.find(node => node.type === 'PrimitiveStringMultiline')
            graph.convertToSubgraph(new Set([text, ({FIND})('{SWAP}')]))
            document.dispatchEvent(new Event('change'))
        }}"""
    )
    find = """() => {
        const inside = window.app.graph.nodes.find(node => node.subgraph).subgraph.nodes
        const swap = inside.find(node => node.type === 'P2P_WordSwap')
        return swap.widgets.find(one => one.name === 'p2p_words').element
            .textContent.includes('birds')
    }"""
    page.evaluate("""() => {
        const inside = window.app.graph.nodes.find(node => node.subgraph).subgraph.nodes
        inside.find(node => node.type === 'P2P_WordSwap').widgets[0].value = 'birds'
        document.dispatchEvent(new Event('change'))
    }""")
    wait_until(lambda: page.evaluate(find), "the words in the subgraph", seconds=30)


def test_a_copied_node_has_a_panel_of_its_own(person: Person) -> None:
    page = person.page
    load(page, workflow("1_word_swap"))
    says(person, SWAP, "red → blue")
    before = set(page.evaluate("() => window.app.graph.nodes.map(node => String(node.id))"))
    person.select(SWAP)
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    wait_until(lambda: person.count() == len(before) + 1, "a copy", seconds=30)
    page.wait_for_function(STILL)
    now = set(page.evaluate("() => window.app.graph.nodes.map(node => String(node.id))"))
    (copy,) = now - before
    says(person, copy, "Connect “edit” to a P2P Controller")
    assert value(person, copy, "words") == "red"
    says(person, SWAP, "red → blue")


def test_a_fader_turns_a_word_and_resets_with_a_double_click(
    person: Person, keep: Callable[[Any, str], None]
) -> None:
    """On P2P Reweight and P2P Word Weights, with the mouse and with the keyboard."""
    page = person.page
    load(page, workflow("3_reweight"))
    weights = page.evaluate(ADD, ["P2P_WordWeights", [400, 500]])
    person.put(weights, prompt="a green bag")
    for node, words in (("2", "striped: -1, square"), (weights, "green: 0.5")):
        person.put(node, words=words)
        wait_until(lambda n=node: panel(person, n).query_selector("input"), "a fader", seconds=30)

        def word(factor: float, n: str = node, list_: str = words) -> None:
            first, *rest = list_.split(", ")
            becomes(person, n, "words", ", ".join([f"{first.split(':')[0]}: {factor:g}", *rest]))

        box = panel(person, node).query_selector("input").bounding_box()
        y = box["y"] + box["height"] / 2
        person.click((box["x"] + box["width"] - 1, y))
        word(2)
        person.page.keyboard.press("ArrowLeft")
        word(1.95)
        wait_until(lambda n=node: "× 1.95" in said(person, n), "what the fader says", seconds=30)
        page.mouse.dblclick(box["x"] + box["width"] * 0.2, y)
        word(1)
    keep(page, "faders")
