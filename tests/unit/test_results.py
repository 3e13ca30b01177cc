"""Results that survive being stopped, and their tables."""

import csv
import json

import pytest

from p2p_core.lab.results import Results, means

PLAN = {"host": "here", "steps": 4}


def test_means():
    rows = [{"case": 0, "x": 1.0, "y": 2.0}, {"case": 1, "x": 3.0}]
    assert means(rows) == {"x": 2.0, "y": 2.0}


def test_a_book_goes_on_where_it_was_cut_short(tmp_path):
    results = Results.open(tmp_path, PLAN)
    assert not list(tmp_path.iterdir())
    results.write({"case": 0, "method": "a"})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"case": 1, "meth')
    again = Results.open(tmp_path, PLAN)
    assert again.rows() == [{"case": 0, "method": "a"}]
    again.write({"case": 1, "method": "a"})
    assert [row["case"] for row in again.rows()] == [0, 1]
    with pytest.raises(ValueError, match="Choose another folder"):
        Results.open(tmp_path, {**PLAN, "host": "there"})


def test_a_case_counts_once(tmp_path):
    """What is added to it joins it, unless it was made anew."""
    results = Results.open(tmp_path, PLAN)
    results.write({"case": 0, "method": "a", "made": 1, "x": 1.0})
    results.write({"case": 0, "method": "a", "made": 1, "y": 2.0})
    assert results.rows() == [{"case": 0, "method": "a", "made": 1, "x": 1.0, "y": 2.0}]
    results.write({"case": 0, "method": "a", "made": 2, "x": 3.0})
    assert results.rows() == [{"case": 0, "method": "a", "made": 2, "x": 3.0}]


def test_tables(tmp_path):
    results = Results.open(tmp_path, PLAN)
    for case, kind, x in ((0, "add", 1.0), (1, "delete", 3.0), (2, "add", 5.0)):
        results.write({"case": case, "method": "a", "kind": kind, "x": x})
    by_kind = results.tables(results.rows(), ["a", "b"], ["add", "delete", "size"], {"x": 1e3})
    assert by_kind == [
        {"method": "a", "kind": "all", "cases": 3, "x": 3.0},
        {"method": "a", "kind": "add", "cases": 2, "x": 3.0},
        {"method": "a", "kind": "delete", "cases": 1, "x": 3.0},
    ]
    with (tmp_path / "report.csv").open() as file:
        assert [json.loads(row["x"]) for row in csv.DictReader(file)] == [3.0, 3.0, 3.0]
    assert (tmp_path / "report.md").read_text().splitlines() == [
        "| method | kind | x × 1000 |",
        "| --- | --- | --- |",
        "| a | all | 3000 |",
        "| a | add | 3000 |",
        "| a | delete | 3000 |",
    ]
