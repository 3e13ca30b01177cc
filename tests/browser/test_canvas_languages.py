"""The pack in another language, where the frontend is set to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from person import DRAWN, load
from waiting import wait_until

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server

LANGUAGES = ("zh", "ja")
ADD = """type => {
    const node = window.LiteGraph.createNode(type)
    window.app.graph.add(node)
    document.dispatchEvent(new Event('change'))
    return String(node.id)
}"""
SAID = """id => window.app.graph.getNodeById(id).widgets
    .find(one => one.name === 'p2p_words').element.innerText.trim()"""
SOCKETS = """type => window.app.graph.nodes.find(node => node.type === type).inputs
    .filter(one => one.name.startsWith('edit_')).map(one => one.localized_name)"""


@pytest.fixture(scope="module", params=["classic", "nodes-2.0"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(
    server: Server, browser: Any, opened: Callable[[str], Any], mode: str, language: str
) -> Iterator[Any]:
    """The frontend in another language, which is English again afterwards."""
    context = browser.new_context()

    def speak(name: str) -> None:
        context.request.post(
            f"{server.url}/api/settings/Comfy.Locale",
            data=json.dumps(name),
            headers={"Content-Type": "application/json"},
        )

    speak(language)
    try:
        page = opened(mode)
        yield page
        page.close()
    finally:
        speak("en")
        context.close()


def texts(language: str, name: str) -> dict[str, Any]:
    path = ROOT / "locales" / language / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_nodes_and_their_panels_speak_it(
    page: Any, language: str, keep: Callable[[Any, str], None]
) -> None:
    """Titles, names and spare sockets, and what the panel of an edit says."""
    nodes, canvas = texts(language, "nodeDefs"), texts(language, "main")["promptToPrompt"]
    load(page, ROOT / "workflows" / "1_word_swap.json")
    wait_until(
        lambda: (
            page.evaluate(SOCKETS, "P2P_Controller")
            == [nodes["P2P_Controller"]["inputs"][f"edit_{n}"]["name"] for n in (1, 2)]
        ),
        "the controller's sockets",
        seconds=30,
    )
    page.evaluate(DRAWN)
    keep(page, f"language_{language}")
    added = page.evaluate(ADD, "P2P_WordSwap")
    assert (
        page.evaluate("id => window.app.graph.getNodeById(id).title", added)
        == nodes["P2P_WordSwap"]["display_name"]
    )
    hint = "Connect “edit” to a P2P Controller to see the words of its prompt."
    wait_until(lambda: page.evaluate(SAID, added) == canvas[hint], "the panel's hint", seconds=30)
    assert page.errors == []
