"""The shipped workflows on the canvas of the real frontend, in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from p2p_core.hosts.launch.frontend import pins
from p2p_core.hosts.launch.locate import ROOT, Host
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import to_prompt

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000
"""Milliseconds; generous, because a small machine may be busy."""


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """The frontend, loaded and past its greetings; console errors are collected on the page."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        message = "no browser: install chromium (Debian: apt-get install chromium)"
        if os.environ.get("P2P_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        done = f"{server.url}/api/settings/Comfy.TutorialCompleted"
        page.request.post(done, data="true", headers={"Content-Type": "application/json"})
        page.goto(server.url)
        page.wait_for_function(
            "() => window.app?.graph && window.LiteGraph && window.app.vueAppReady"
        )
        yield page
        browser.close()


def test_the_frontend_is_the_one_that_the_hosts_requirements_name(page: Any, host: Host) -> None:
    served = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    assert served == pins(host)["comfyui-frontend-package"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_complete_and_means_what_the_server_runs(
    path: Path, page: Any, server: Server
) -> None:
    page.errors.clear()
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function(
        "count => window.app.graph.nodes.length === count", arg=len(workflow["nodes"])
    )
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


def test_the_demo_workflow_runs_from_the_canvas(page: Any, server: Server) -> None:
    workflow = json.loads((ROOT / "workflows" / "1_word_swap.json").read_text(encoding="utf-8"))
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    before = set(server.get("/history"))
    page.evaluate("() => window.app.queuePrompt(0)")
    (identity,) = wait_until(
        lambda: set(server.get("/history")) - before, "the prompt's run", seconds=PATIENCE / 1000
    )
    assert server.get(f"/history/{identity}")[identity]["status"]["status_str"] == "success"
    page.wait_for_function(
        "() => window.app.graph.nodes.filter(node => node.type === 'SaveImage')"
        ".every(node => node.imgs?.length)"
    )
    if folder := os.environ.get("P2P_SCREENSHOTS"):
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.querySelector('[role=dialog]')")
        page.screenshot(path=str(Path(folder) / "1_word_swap.png"))
