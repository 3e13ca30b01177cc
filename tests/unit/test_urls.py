"""Addresses follow from the one that the owner fills in."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def urls():
    spec = importlib.util.spec_from_file_location("urls", ROOT / ".ci/urls.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_follow(urls):
    assert [*urls.wrong(ROOT)] == []


def test_there_are_no_others(urls):
    """Of this project: whatever is named as its repository is."""
    repository, _ = urls.read_owner(ROOT)
    name = repository.rpartition("/")[2]
    for file in ("pyproject.toml", "README.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        addresses = [word for word in text.split() if "://" in word and f"/{name}" in word]
        wanted = [to for (where, _), to in urls.derived(repository).items() if where == file]
        wanted += [repository] * (file == "pyproject.toml")
        assert sorted(word.strip('"') for word in addresses) == sorted(wanted)


def test_another_repository_changes_them_all(urls, tmp_path):
    for file in ("pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / file, tmp_path / file)
    project = tmp_path / "pyproject.toml"
    repository, _ = urls.read_owner(tmp_path)
    other = "https://github.com/somebody/something"
    line = 'Repository = "{}"'
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace(line.format(repository), line.format(other)), encoding="utf-8")
    assert len([*urls.wrong(tmp_path)]) == len(urls.derived(other))
    assert len([*urls.wrong(tmp_path, write=True)]) == len(urls.derived(other))
    assert [*urls.wrong(tmp_path)] == []
    for file in ("pyproject.toml", "README.md"):
        assert repository not in (tmp_path / file).read_text(encoding="utf-8")
    assert "git clone https://github.com/somebody/something\n" in (
        tmp_path / "README.md"
    ).read_text(encoding="utf-8")
