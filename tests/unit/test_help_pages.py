"""The nodes' help pages, as the host's narrow panel shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from p2p_core.lab.showcase.help_pages import PAGES

FOLDER = Path(__file__).parents[2] / "web" / "docs"
FILES = sorted(FOLDER.glob("*.md"))
TRANSLATED = sorted(FOLDER.glob("*/*.md"))
"""Pages in other languages, which the frontend looks for before the English ones."""
LOCALES = Path(__file__).parents[2] / "locales"
PANEL = 300
"""Pixels that the panel is wide, about."""


def test_there_is_a_picture_to_make_for_every_page() -> None:
    assert sorted(PAGES) == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_page_has_one_small_picture_with_words_for_it(path: Path) -> None:
    ((words, name),) = re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text(encoding="utf-8"))
    assert len(words.split()) > 3
    assert name == f"{path.stem}.jpg"
    width, height = Image.open(FOLDER / name).size
    assert width <= 1.5 * PANEL
    assert height <= PANEL
    assert (FOLDER / name).stat().st_size < 20_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_page_is_readable_in_the_panel(path: Path) -> None:
    """No table, whose columns would be a word wide, and no word that is wider than the panel."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\|", text, re.MULTILINE)
    assert max(len(word) for word in re.sub(r"\(.*?\.jpg\)", "", text).split()) <= 38


def names(path: Path) -> dict[str, str]:
    """What the inputs of a translated page's node are called in its language."""
    texts = (LOCALES / path.stem / "nodeDefs.json").read_text(encoding="utf-8")
    inputs = json.loads(texts)[path.parent.name].get("inputs", {})
    return {name: one["name"] for name, one in inputs.items()}


def test_every_page_is_there_in_chinese_and_japanese() -> None:
    there = {(path.parent.name, path.stem) for path in TRANSLATED}
    assert sorted({(path.stem, one) for path in FILES for one in ("zh", "ja")} - there) == []
    assert sorted(path.parent.name for path in TRANSLATED if path.parent.name not in PAGES) == []


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_translated_page_shows_the_pages_picture(path: Path) -> None:
    """Frontends look for it beside the English page."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"!\[.{5,}?\]\((.*?)\)", text) == [f"{path.parent.name}.jpg"]
    assert not re.search(r"^\|", text, re.MULTILINE)


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_translated_page_names_the_inputs_that_the_page_names(path: Path) -> None:
    """By both names: messages and workflows say the English one."""
    english = (FOLDER / f"{path.parent.name}.md").read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    left = [
        name
        for name, shown in names(path).items()
        if f"**{name}**" in english
        and (f"**{shown}**" if shown == name else f"**{shown}**（`{name}`）") not in text
    ]
    assert left == []
