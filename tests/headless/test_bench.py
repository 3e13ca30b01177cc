"""That what the benchmark compares is the same edit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from p2p_core.lab.meter import peak_memory
from p2p_core.lab.peers.bench import Bench


@pytest.fixture(scope="module")
def bench():
    return replace(Bench.demo(), steps=4)


def test_explicit_maps_make_the_picture_that_we_make(bench):
    ours, theirs, plain = (work() for work in (bench.ours(), bench.explicit(), bench.plain()))
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() / scale < 1e-4
    assert (ours - plain)[0].abs().max() / scale < 1e-4
    assert (ours - plain)[1].abs().max() / scale > 0.1


def test_a_layer_alone_is_the_same_edit_too(bench):
    torch.manual_seed(0)
    ours = bench.layer(False)()
    torch.manual_seed(0)
    assert (ours - bench.layer(True)()).abs().max() / ours.abs().max() < 1e-4


def test_attention_takes_less_memory_than_its_maps(bench):
    assert peak_memory(bench.layer(False)) < 0.6 * peak_memory(bench.layer(True))
    assert peak_memory(bench.ours()) < 0.6 * peak_memory(bench.explicit())


def test_a_file_that_is_no_pipeline(bench, tmp_path):
    with pytest.raises(ValueError, match=r"pipeline_prompt2prompt\.py, got"):
        bench.community(tmp_path / "none.py")
    (tmp_path / "other.py").write_text("")
    with pytest.raises(ValueError, match="Expected a Prompt2PromptPipeline"):
        bench.community(tmp_path / "other.py")
