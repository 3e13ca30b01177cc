"""The nodes' help pages, as the host's narrow panel shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from p2p_core.lab.showcase.help_pages import PAGES

FOLDER = Path(__file__).parents[2] / "web" / "docs"
FILES = sorted(FOLDER.glob("*.md"))
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
