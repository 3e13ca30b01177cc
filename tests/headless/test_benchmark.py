"""The benchmark of rendered scenes, on a few of them."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from math import ceil

import pytest

from p2p_core.lab.results import Results
from p2p_core.lab.shapes import benchmark
from p2p_core.lab.shapes.benchmark import Plan, measure, report, reports
from p2p_core.lab.shapes.cases import KINDS
from p2p_core.lab.shapes.diffusers import DiffusersLab
from p2p_core.lab.shapes.methods import CROSS, METHODS

PLAN = Plan("diffusers", steps=3)


@pytest.fixture(scope="module")
def lab():
    return DiffusersLab(PLAN.steps, PLAN.cfg)


def test_a_run_that_is_stopped_goes_on_and_counts_nothing_twice(lab, tmp_path, monkeypatch):
    methods = {name: METHODS[name] for name in ("direct", "img2img")}
    monkeypatch.setattr(benchmark, "METHODS", methods)
    made = []

    class Stopping:
        def __getattr__(self, name):
            return getattr(lab, name)

        def make(self, *args):
            if len(made) == 6:  # the first case is made twice, to see its memory
                raise KeyboardInterrupt
            made.append(args)
            return lab.make(*args)

    results = Results.open(tmp_path, asdict(PLAN))
    with pytest.raises(KeyboardInterrupt):
        measure(Stopping(), results, 3, PLAN.seed)
    assert len(results.rows()) == 4
    measure(lab, results, 3, PLAN.seed)
    measure(lab, results, 3, PLAN.seed)
    rows = [(row["case"], row["method"]) for row in results.rows()]
    assert rows == [(case, method) for case in range(3) for method in methods]


def test_every_method_and_every_figure(lab, tmp_path):
    results = Results.open(tmp_path, asdict(PLAN))
    measure(lab, results, 1, PLAN.seed)
    summary = report(results, PLAN)
    assert summary == json.loads((tmp_path / "report.json").read_text())
    assert set(summary["methods"]) == set(METHODS)
    for name, method in METHODS.items():
        figures = summary["methods"][name]
        assert ("reconstruction_psnr" in figures) == method.controlled
        assert method.reference or figures["peak_memory_mib"] > 0
        assert 0 < figures["background_ssim"] <= 1
    direct, ddim = (summary["methods"][name] for name in ("direct", "ddim"))
    assert abs(direct["reconstruction_psnr"] - summary["vae_round_trip_psnr"]) < 0.1
    assert ddim["reconstruction_psnr"] < direct["reconstruction_psnr"] - 3
    looked_at = ceil(CROSS * PLAN.steps)  # steps in which the source's row runs, too
    assert direct["network_evaluations"] == PLAN.steps * (1 + 2) + looked_at
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["kind"]) for row in rows} == {
        (name, kind) for name in METHODS for kind in ("all", KINDS[0])
    }
    assert (tmp_path / "report.md").read_text().startswith("| method | kind |")
    assert (tmp_path / "sheet.png").exists()


def test_the_second_models_figures_stand_under_its_name(lab, tmp_path):
    first, second = (Results.open(tmp_path / name, asdict(PLAN)) for name in ("", "mmdit"))
    measure(lab, first, 1, PLAN.seed, ["direct"])
    assert "mmdit" not in reports(first, second, PLAN)  # while it was not measured
    measure(lab, second, 1, PLAN.seed, ["img2img"])
    both = reports(first, second, PLAN)
    assert set(both["methods"]) == {"direct"}
    assert set(both["mmdit"]["methods"]) == {"img2img"}
    assert both == json.loads((tmp_path / "report.json").read_text())


def test_methods_by_name_go_on_with_others_later(lab, tmp_path):
    results = Results.open(tmp_path, asdict(PLAN))
    measure(lab, results, 1, PLAN.seed, ["direct"])
    assert set(report(results, PLAN)["methods"]) == {"direct"}
    measure(lab, results, 1, PLAN.seed, ["direct", "img2img"])
    assert [row["method"] for row in results.rows()] == ["direct", "img2img"]
    assert set(report(results, PLAN)["methods"]) == {"direct", "img2img"}
