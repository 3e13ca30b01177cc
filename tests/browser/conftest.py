"""The real frontend in a real browser, once for each way that it draws nodes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_core.hosts.launch.frontend import pins
from p2p_core.hosts.launch.locate import ROOT, Host
from p2p_core.hosts.launch.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000
"""Milliseconds; generous, because a small machine may be busy."""

CLASSIC, NODES_2 = "classic", "nodes-2.0"
FIRST_WITH_NODES_2 = (1, 40)
"""The frontend from which on Nodes 2.0 is more than an experiment."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium as the system has it."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        message = "no browser: install chromium (Debian: apt-get install chromium)"
        if os.environ.get("P2P_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def opened(browser: Any, server: Server, host: Host) -> Callable[[str], Any]:
    """A function that opens the frontend in one of its modes, dark, past its greetings.

    Errors of the page are collected in its `errors`.
    """

    def open_page(mode: str) -> Any:
        version = tuple(map(int, pins(host)["comfyui-frontend-package"].split(".")[:2]))
        if mode == NODES_2 and version < FIRST_WITH_NODES_2:
            pytest.skip("this frontend has no Nodes 2.0")
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.errors = []
        page.mode = mode
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        settings = {
            "Comfy.TutorialCompleted": True,
            "Comfy.ColorPalette": "dark",
            "Comfy.VueNodes.Enabled": mode == NODES_2,
            # no checkpoint is there; older hosts cover the page with a dialog to say so, later
            "Comfy.Workflow.ShowMissingModelsWarning": False,
        }
        for name, value in settings.items():
            page.request.post(
                f"{server.url}/api/settings/{name}",
                data=json.dumps(value),
                headers={"Content-Type": "application/json"},
            )
        page.goto(server.url)
        page.wait_for_function(
            "() => window.LiteGraph && window.app?.vueAppReady && window.app.graph?.nodes.length"
        )
        return page

    return open_page


@pytest.fixture(scope="module", params=[CLASSIC, NODES_2])
def page(request: pytest.FixtureRequest, opened: Callable[[str], Any]) -> Iterator[Any]:
    """The frontend in each of its modes."""
    page = opened(request.param)
    yield page
    page.close()


@pytest.fixture(scope="session")
def keep(host: Host) -> Callable[[Any, str], None]:
    """A function that keeps a page's screenshot under output/screenshots."""
    folder = Path(os.environ.get("P2P_SCREENSHOTS", ROOT / "output" / "screenshots"))

    def screenshot(page: Any, name: str) -> None:
        place = folder / f"{host.version}-{page.mode}"
        place.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(place / f"{name}.png"))

    return screenshot
