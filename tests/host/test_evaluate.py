"""The demo model's evaluation goes on where it was stopped."""

import json

import pytest

from p2p_core.hosts.comfyui.demo import DemoPipeline
from p2p_core.lab import evaluate
from p2p_core.lab.evaluate import Evaluation
from p2p_core.lab.report import measured

PLAN = {"captions": 6, "steps": 8, "cfg": 3.0, "seed": 0}


class Counting(DemoPipeline):
    """Samples; says which seeds it was asked for, and may be stopped before one."""

    def __init__(self):
        super().__init__()
        self.seeds, self.stop = [], None

    def sample(self, texts, seed, *rest):
        if seed == self.stop:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return super().sample(texts, seed, *rest)


def test_a_stopped_evaluation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "BATCH", 2)
    pipeline = Counting()
    whole, stopped = (Evaluation(pipeline, tmp_path / name, PLAN) for name in ("whole", "stopped"))
    expected = whole.captions()
    assert pipeline.seeds == [0, 2, 4]
    assert (whole.out / "samples.png").exists()
    pipeline.seeds, pipeline.stop = [], 2
    with pytest.raises(KeyboardInterrupt):
        measured(stopped.out, PLAN, stopped.rows())
    pipeline.stop = None
    report = measured(stopped.out, PLAN, stopped.rows())
    assert pipeline.seeds == [0, 2, 4]
    assert report == {**PLAN, **expected, "vae_psnr": report["vae_psnr"]}
    assert json.loads((stopped.out / "report.json").read_text()) == report
    assert report["vae_psnr"] > 25
    seen = json.loads((stopped.out / "captions" / "report.json").read_text())
    assert [len(seen[at]["background"]) for at in ("0", "2", "4")] == [2, 2, 2]


def test_a_row_by_name_is_measured_alone(tmp_path):
    pipeline = Counting()
    one = Evaluation(pipeline, tmp_path, PLAN)
    assert set(measured(tmp_path, PLAN, one.rows(), ["autoencoder"])) == {*PLAN, "vae_psnr"}
    assert pipeline.seeds == []
