"""Which ComfyUI is found where, and in which order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from p2p_core.hosts.launch import locate
from p2p_core.hosts.launch.locate import Host, HostNotFound, find_hosts, main, read_host


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any ComfyUI, where the pack lies in `tmp_path/pack`."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(locate, "ROOT", tmp_path / "pack")
    make_pack(tmp_path / "pack")


def make_pack(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").touch()


def make_host(folder: Path, version: str) -> Host:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n')
    return Host(folder.resolve(), version)


def test_newest_first_by_number(tmp_path: Path) -> None:
    old = make_host(tmp_path / "home/comfy/ComfyUI", "0.9.12")
    new = make_host(tmp_path / "home/comfy/ComfyUI-new", "0.33.0")
    assert find_hosts() == [new, old]


def test_the_one_around_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = make_host(tmp_path / "elsewhere", "0.3.64")
    monkeypatch.setattr(locate, "ROOT", tmp_path / "elsewhere/custom_nodes/pack")
    assert find_hosts() == [around]


def test_the_one_around_a_link_to_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = make_host(tmp_path / "elsewhere", "0.3.64")
    link = tmp_path / "elsewhere/custom_nodes/pack"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "pack", target_is_directory=True)
    monkeypatch.setattr(locate, "ROOT", link)
    assert find_hosts() == [around]


def test_each_once(tmp_path: Path) -> None:
    host = make_host(tmp_path / "home/comfy/ComfyUI", "0.33.0")
    (tmp_path / "home/comfy/ComfyUI-link").symlink_to(host.path, target_is_directory=True)
    assert find_hosts() == [host]


def test_the_environment_decides_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_host(tmp_path / "home/comfy/ComfyUI", "0.33.0")
    old, new = make_host(tmp_path / "a", "0.3.64"), make_host(tmp_path / "b", "0.3.70")
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join([str(old.path), str(new.path)]))
    assert find_hosts() == [new, old]


def test_a_wrong_path_in_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_host(tmp_path / "home/comfy/ComfyUI", "0.33.0")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "pack"))
    with pytest.raises(ValueError, match=r"COMFYUI_PATH: expected .*pack'"):
        find_hosts()


@pytest.mark.parametrize("missing", ["main.py", "comfyui_version.py"])
def test_half_a_comfyui_is_none(tmp_path: Path, missing: str) -> None:
    host = make_host(tmp_path / "half", "0.33.0")
    (host.path / missing).unlink()
    assert read_host(host.path) is None


def test_none_to_be_had_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostNotFound, match=r"set COMFYUI_PATH .* git clone") as raised:
        find_hosts()
    assert "\n" not in str(raised.value)
    assert main([]) == 1
    assert capsys.readouterr() == ("", f"{raised.value}\n")


class TestClone:
    """With a repository of this machine in the place of the real one."""

    @pytest.fixture(autouse=True)
    def upstream(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = make_host(tmp_path / "upstream", "0.33.0").path
        git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--no-verify", "-m", "all"], check=True)
        subprocess.run([*git, "tag", locate.CLONE_TAG], check=True)
        monkeypatch.setattr(locate, "CLONE_URL", repository.as_uri())

    def test_only_when_asked(self, tmp_path: Path) -> None:
        with pytest.raises(HostNotFound):
            find_hosts()
        own = Host(tmp_path / "pack/.host/ComfyUI", "0.33.0")
        assert find_hosts(clone=True) == [own]
        assert find_hosts() == [own]

    def test_nothing_else_is_left(self, tmp_path: Path) -> None:
        find_hosts(clone=True)
        assert [path.name for path in (tmp_path / "pack/.host").iterdir()] == ["ComfyUI"]

    def test_not_where_there_is_one(self, tmp_path: Path) -> None:
        host = make_host(tmp_path / "home/comfy/ComfyUI", "0.3.64")
        assert find_hosts(clone=True) == [host]

    def test_failure_leaves_nothing_and_names_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locate, "CLONE_URL", (tmp_path / "gone").as_uri())
        with pytest.raises(HostNotFound, match=r"cloning .*gone failed: set COMFYUI_PATH"):
            find_hosts(clone=True)
        assert list((tmp_path / "pack/.host").iterdir()) == []
