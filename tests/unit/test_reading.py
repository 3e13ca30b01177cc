"""What somebody brings: every fault is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p_core.jobs import reading
from p2p_core.jobs.reading import parse_json, read_text, shown

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [(DEEP, "nested too deep"), ('{"a": 1, "a": 2}', "'a' twice"), ("{", "line 1 column 2"),
     ("1" * 5000, "digits")],
)  # fmt: skip
def test_what_is_no_json(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_files_without_an_end_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="cannot be read: it is no regular file"):
            read_text(tmp_path / name)
    monkeypatch.setattr(reading, "LARGEST", 4)
    (tmp_path / "long").write_text("12345")
    with pytest.raises(ValueError, match="cannot be read: it has more than"):
        read_text(tmp_path / "long")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="cannot be read: 'utf-8'"):
        read_text(tmp_path / "bytes")


def test_values_are_shown_in_a_line():
    deep = value = []
    for _ in range(100_000):
        value.append(value := [])
    assert len(shown(deep)) < 100
    assert len(shown("x" * 1000)) < 100
    assert shown("many") == "'many'"
    while deep:
        deep = deep.pop()  # by hand: freeing it all at once would go as deep
