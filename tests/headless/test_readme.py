"""Every command of README.md and docs, run as it stands there by a reader with an empty folder.

The reader brings what the command names: a photograph, a model, a data set, the manifest that the
page shows. So that it ends soon, options are added behind what is written, never in its place.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from cyclopts import App
from PIL import Image
from transformers_of_diffusers import flux

from p2p_core.cli.app import app
from p2p_core.demo.scenes import Item, Scene, render
from p2p_core.lab.pie.sample import write_sample

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {
    "edit": "--steps 2",
    "maps": "--steps 2",
    "invert": "--steps 2 --inner-steps 1",
    "batch": "",
    "benchmark shapes": "--cases 1 --steps 2",
    "benchmark pie": "--cases 1 --steps 2",
    "benchmark sample": "",
    "benchmark peers": "--repeats 1 --models demo",
    "benchmark workers": "--cases 2",
}
"""What makes each command of `p2p` end soon."""


def blocks(language: str) -> list[str]:
    found = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """As a shell splits them, without comments."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def mentioned() -> list[list[str]]:
    """Commands within sentences, perhaps with an ellipsis."""
    prose = "\n".join(BLOCK.sub("", page.read_text(encoding="utf-8")) for page in PAGES)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
    programs = ("p2p ", "make ", "pip ", "git ")
    return [shlex.split(span) for span in dict.fromkeys(spans) if span.startswith(programs)]


def command_of(words: list[str]) -> tuple[str, App]:
    """The command of `p2p` that is named, and its name."""
    names, apps, _ = app.parse_commands(words[1:])
    return " ".join(names), apps[-1]


OURS = [words for words in commands() if words[0] == "p2p"]
OTHERS = [words for words in [*commands(), *mentioned()] if words[0] != "p2p"]


@pytest.fixture(scope="module")
def brought(tmp_path_factory, demo):
    """What readers have, by the option that asks for it."""
    folder = tmp_path_factory.mktemp("brought")
    scene = Scene((Item("circle", "red", "plain", 60.0, 64.0, 30.0),), "grass", (0.9, 0.0), ())
    Image.fromarray(render(scene)).save(folder / "photo.png")
    demo.pipeline.save_pretrained(folder / "model")
    flux().save_pretrained(folder / "flux")
    (folder / "data").mkdir()
    write_sample(folder / "data", 1, 0)
    return {
        "--image": folder / "photo.png",
        "--model": folder / "model",
        "flux": folder / "flux",
        "--data": folder / "data",
    }


def bring(what: Path, to: str) -> None:
    path = Path(to)
    assert not path.is_absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if what.is_dir():
        shutil.copytree(what, path)
    else:
        Image.open(what).save(path)


def bring_manifest(to: str, photo: Path) -> None:
    """The page's own, its images, and columns that make it end soon."""
    (text,) = blocks("csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    for row in rows:
        if row["image"]:
            bring(photo, row["image"])
    with Path(to).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "steps", "inner_steps"])
        writer.writeheader()
        writer.writerows({**row, "steps": 2, "inner_steps": 1} for row in rows)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_does_what_it_says(words, p2p, brought, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    name, _ = command_of(words)
    for option, value in pairwise(words):
        if option == "--model" and "flux" in value:
            bring(brought["flux"], value)
        elif option in brought:
            bring(brought[option], value)
        elif option == "batch":
            bring_manifest(value, brought["--image"])
    status, told, error = p2p(*words[1:], *SMALL[name].split())
    assert status == 0, error
    assert told
    if "--out" in words:
        assert any(Path(words[words.index("--out") + 1]).iterdir())


@pytest.mark.parametrize("words", [w for w in mentioned() if w[0] == "p2p"], ids=" ".join)
def test_a_command_that_is_mentioned_has_its_options(words):
    _, command = command_of(words)
    known = {name for argument in command.assemble_argument_collection() for name in argument.names}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_what_other_programs_are_asked_for_is_there(words):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if words[0] == "make":
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE) for target in targets)
    elif words[:2] == ["pip", "install"]:
        (extras,) = (re.fullmatch(r"\.(?:\[(.*)\])?", word) for word in words[2:])
        assert extras
        for extra in (extras[1] or "").split(","):
            assert not extra or re.search(rf"^{extra} = \[", project, re.MULTILINE)
    elif words[:2] == ["git", "clone"]:
        assert f'Repository = "{words[2].removesuffix(".git")}"' in project
    else:
        assert words[0] == "cd", "a program that this test does not know"
