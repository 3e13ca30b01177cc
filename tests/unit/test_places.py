"""Where pictures go: names for every system, nobody else's files, one run at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from p2p_core.jobs.files import write_pictures
from p2p_core.jobs.places import alone_in, check_folder, check_name, same_name, sweep, write_folder

PICTURE = np.zeros((8, 8, 3), np.uint8)
BOTH = {"source": PICTURE, "edited": PICTURE}
ABOUT = {"command": "p2p edit"}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "a\\b", "/", "x.part", "X.PART", "log.jsonl", ".p2p.lock",
     "CON", "nul", "Aux.txt", "com1", "LPT²", "C:x", "what?", "a*", "trail.", "trail ", " ",
     "two\nlines", "\ud83d", "n" * 201, "é" * 101],
)  # fmt: skip
def test_names_that_some_system_cannot_have(name):
    with pytest.raises(ValueError, match="a name for a folder on every system"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0001", "rex (2)", "été", "猫", ".hidden", "console", "a.b"])
def test_names_that_every_system_can_have(name):
    check_name(name)


def test_names_that_are_one_on_some_system():
    assert same_name("Rex") == same_name("rex")
    assert same_name("caf\u00e9") == same_name("cafe\u0301") == same_name("CAF\u00c9")
    assert same_name("a") != same_name("á")


def test_pictures_of_ours_give_way_whole(tmp_path):
    folder = tmp_path / "a"
    write_folder(folder, {**BOTH, "mask": PICTURE}, ABOUT)
    assert everything(folder) == ["edited.png", "mask.png", "source.png"]
    write_folder(folder, BOTH, ABOUT)
    assert everything(tmp_path) == ["a", "a/edited.png", "a/source.png"]


def test_nothing_of_others_is_removed(tmp_path):
    folder = tmp_path / "a"
    write_folder(folder, BOTH, ABOUT)
    (folder / "family.jpg").write_text("")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "edited.png").write_text("no picture of ours")
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    write_folder(tmp_path / "ours", BOTH, ABOUT)
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "edited.png").symlink_to(tmp_path / "ours" / "edited.png")
    before = everything(tmp_path)
    for name in ("a", "theirs", "file", "dangling", "link", "pictures"):
        with pytest.raises(ValueError, match="Expected a folder for pictures"):
            check_folder(tmp_path / name)
        with pytest.raises(ValueError, match="Expected a folder for pictures"):
            write_folder(tmp_path / name, BOTH, ABOUT)
    assert everything(tmp_path) == before


def test_only_what_is_half_written_is_swept(tmp_path):
    write_pictures(tmp_path / ".p2p-0.part", BOTH, ABOUT)
    for name in ("mask.png.part", "mask.png.0a1b2c3d.part"):
        (tmp_path / ".p2p-0.part" / name).write_text("cut sh")
    (tmp_path / ".p2p-1.part").mkdir()
    (tmp_path / ".p2p-1.part" / "family.jpg").write_text("")
    (tmp_path / "a.part").mkdir()
    sweep(tmp_path)
    assert everything(tmp_path) == [".p2p-1.part", ".p2p-1.part/family.jpg", "a.part"]


def test_a_folder_is_one_runs_until_it_ends(tmp_path):
    """However it ends: here the other process is killed."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom p2p_core.jobs.places import alone_in\n"
        "with alone_in([Path(sys.argv[1])]):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        with (
            pytest.raises(ValueError, match="another is writing there"),
            alone_in([tmp_path / "free", tmp_path / "out"]),
        ):
            pass
        with alone_in([tmp_path / "free"]):
            pass
        other.kill()
        other.wait()
        with alone_in([tmp_path / "out"]), alone_in([tmp_path / "out"]):
            pass
