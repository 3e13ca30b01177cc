"""The host comes up as a server, runs prompts, and its folder stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from p2p_core.hosts.launch.locate import ROOT, Host
from p2p_core.hosts.launch.server import PACK_NAME, PromptFailed, Server, ServerFailed


def prompt_of(*nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A prompt in the API format of (class, inputs), with node ids that count from "1"."""
    return {
        str(number): {"class_type": name, "inputs": inputs}
        for number, (name, inputs) in enumerate(nodes, start=1)
    }


RED = ("EmptyImage", {"width": 8, "height": 16, "batch_size": 2, "color": 0xFF0000})
SAVE = ("SaveImage", {"images": ["1", 0], "filename_prefix": "smoke"})


def test_the_server_is_the_host(server: Server, host: Host) -> None:
    assert server.get("/system_stats")["system"]["comfyui_version"] == host.version


def test_the_host_shows_what_its_own_requirements_name(server: Server) -> None:
    system = server.get("/system_stats")["system"]
    assert system["installed_templates_version"] == system["required_templates_version"]
    assert isinstance(server.get("/templates/index.json"), list)


def test_the_pack_is_among_the_custom_nodes(server: Server) -> None:
    assert (server.base / "custom_nodes" / PACK_NAME).resolve() == ROOT.resolve()


def test_a_prompt_gives_its_images(server: Server) -> None:
    images = server.images(server.queue(prompt_of(RED, SAVE)))
    assert [image.size for image in images] == [(8, 16), (8, 16)]
    assert all(image.getpixel((0, 0)) == (255, 0, 0) for image in images)


def test_a_refused_prompt_names_the_node_and_the_input(server: Server) -> None:
    with pytest.raises(PromptFailed, match=r"2 \(SaveImage\).*images"):
        server.queue(prompt_of(RED, ("SaveImage", {"filename_prefix": "smoke"})))


def test_a_partly_refused_prompt_fails(server: Server) -> None:
    with pytest.raises(PromptFailed, match=r"3 \(SaveImage\).*images"):
        server.queue(prompt_of(RED, SAVE, ("SaveImage", {"filename_prefix": "smoke"})))


def test_an_empty_prompt_fails_with_the_reason(server: Server) -> None:
    with pytest.raises(PromptFailed, match="no outputs"):
        server.queue({})


def test_a_raising_node_is_named_with_its_message(server: Server) -> None:
    no_such_channel = ("ImageToMask", {"image": ["1", 0], "channel": "alpha"})
    preview = ("MaskPreview", {"mask": ["2", 0]})
    with pytest.raises(PromptFailed, match=r"2 \(ImageToMask\): IndexError: .*out of bounds"):
        server.queue(prompt_of(RED, no_such_channel, preview))


def test_a_server_that_does_not_start_shows_its_log(host: Host) -> None:
    with (
        pytest.raises(ServerFailed, match="unrecognized arguments: --no-such-option"),
        Server(host, options=["--no-such-option"]),
    ):
        pass


def test_a_taken_port_is_named(server: Server, host: Host) -> None:
    with pytest.raises(ValueError, match=f"got {server.port}"), Server(host, port=server.port):
        pass


def test_the_host_folder_is_unchanged(
    server: Server, changes_in_host: Callable[[], list[str]]
) -> None:
    server.queue(prompt_of(RED, SAVE))
    assert changes_in_host() == []
