"""Reports that go on where they were stopped."""

import json

import pytest

from p2p_core.lab.report import measured

PLAN = {"host": "here"}


class Rows(dict):
    """Rows that count how often they are measured; one may be stopped."""

    def __init__(self, stopped=None):
        self.made, self.stopped = [], stopped
        super().__init__({name: lambda name=name: self.row(name) for name in "abc"})

    def row(self, name):
        if name == self.stopped:
            raise KeyboardInterrupt
        self.made.append(name)
        return {name: len(self.made)}


def test_a_stopped_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, PLAN, Rows(stopped="c"))
    assert not (tmp_path / "report.json").exists()
    rows = Rows()
    report = measured(tmp_path, PLAN, rows)
    assert rows.made == ["c"]
    assert report == {"host": "here", "a": 1, "b": 2, "c": 1}
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_finished_run_begins_anew_and_so_does_another_plan(tmp_path):
    measured(tmp_path, PLAN, Rows())
    rows = Rows()
    measured(tmp_path, PLAN, rows)
    assert rows.made == ["a", "b", "c"]
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, PLAN, Rows(stopped="b"))
    other = Rows()
    measured(tmp_path, {"host": "there"}, other)
    assert other.made == ["a", "b", "c"]


def test_rows_by_name_are_measured_anew_and_join_the_report(tmp_path):
    measured(tmp_path, PLAN, Rows())
    rows = Rows()
    assert measured(tmp_path, PLAN, rows, ["b"]) == {"host": "here", "a": 1, "b": 1, "c": 3}
    assert rows.made == ["b"]
    with pytest.raises(ValueError, match="Expected rows among a, b, c, got d"):
        measured(tmp_path, PLAN, rows, ["d"])
    with pytest.raises(ValueError, match="Measure all rows, or choose another folder"):
        measured(tmp_path, {"host": "there"}, rows, ["b"])
