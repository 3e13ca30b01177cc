"""Which frontend, templates and help a ComfyUI is served with."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from p2p_core.hosts.launch import frontend, locate
from p2p_core.hosts.launch.frontend import frontend_path, pins
from p2p_core.hosts.launch.locate import Host

REQUIREMENTS = """\
comfyui-frontend-package==1.27.10
comfyui-workflow-templates == 0.1.95  # beside it
torch
numpy>=1.25.0
pydantic~=2.0
av==14.2
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A ComfyUI of these requirements, beside a pack in a folder of its own."""
    monkeypatch.setattr(locate, "ROOT", tmp_path / "pack")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pyproject.toml").touch()
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "requirements.txt").write_text(REQUIREMENTS)
    return Host(tmp_path / "host", "0.3.64")


def environment_has(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(name) from None

    monkeypatch.setattr(frontend, "version", version)


def test_what_the_requirements_name_and_nothing_else(host: Host) -> None:
    assert pins(host) == {
        "comfyui-frontend-package": "1.27.10",
        "comfyui-workflow-templates": "0.1.95",
    }


def test_the_environments_own_where_it_is_the_one_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment_has(
        monkeypatch, comfyui_frontend_package="1.27.10", comfyui_workflow_templates="0.1.95"
    )
    assert frontend_path(host) is None


def test_a_folder_that_is_there_is_used_as_it_is(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment_has(
        monkeypatch, comfyui_frontend_package="1.49.6", comfyui_workflow_templates="0.1.95"
    )
    kept = tmp_path / "pack" / "output" / "frontends" / "1.27.10-0.1.95"
    kept.mkdir(parents=True)
    assert frontend_path(host) == kept
    assert list(kept.iterdir()) == []


def test_one_that_cannot_be_installed_is_said_and_leaves_nothing(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment_has(monkeypatch, comfyui_frontend_package="1.49.6")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with caplog.at_level(logging.WARNING, "p2p.hosts"):
        assert frontend_path(host) is None
    assert "another release's frontend" in caplog.text
    assert list((tmp_path / "pack" / "output" / "frontends").iterdir()) == []
