"""How well a picture comes back from its inversion: measured, said, kept in the file."""

import re

import pytest
import torch

from p2p_core.inversion.record import Inversion, verdict
from p2p_core.inversion.task import Found


def inversion(restored, **more):
    latent = torch.rand(1, 4, 3, 5)
    return Inversion(
        method="direct",
        prompt="a cat",
        guidance=7.5,
        sigmas=torch.tensor([14.0, 1.0, 0.0]),
        found=Found(torch.rand(3, *latent.shape), restore_source=restored),
        latent=latent,
        reconstruction=latent.clone(),
        psnr=(100.0,),
        source=torch.rand(4),
        negative=torch.rand(4),
        probe=torch.rand(9),
        **more,
    )


@pytest.mark.parametrize(
    ("picture", "limit", "word"),
    [
        ((30.0,), (50.0,), "good"),
        ((26.0,), (28.0,), "good"),  # the autoencoder can no better
        ((26.0,), (34.0,), "fair"),
        ((20.0,), (25.0,), "fair"),
        ((24.9,), (34.0,), "poor"),
        ((40.0, 24.0), (40.0, 40.0), "poor"),  # the worst of several counts
    ],
)
def test_a_word_for_it(picture, limit, word):
    assert verdict(picture, limit) == word


def test_a_file_keeps_what_was_measured(tmp_path):
    path = tmp_path / "one.p2p.safetensors"
    inversion(True, picture=(34.0,), limit=(34.0,)).save(path)
    assert Inversion.load(path).report == (
        "good, the picture comes back with 34.0 dB (the autoencoder alone: 34.0 dB)"
    )


def test_a_file_without_it_tells_no_hundred_decibels(tmp_path):
    path = tmp_path / "one.p2p.safetensors"
    for restored, said in ((True, "comes back exactly"), (False, "reconstruction 100.0 dB")):
        inversion(restored).save(path)
        assert said in Inversion.load(path).report


@pytest.mark.parametrize(
    ("explained", "said"),
    [
        ((0.31,), "good, the prompt explains 31% of what the negative leaves open"),
        ((0.02,), "fair, the prompt explains 2% of .*: name what else"),
        ((-0.2,), "poor, the prompt explains 0% of .*: look for words that are wrong"),
        ((), ""),
    ],
)
def test_how_well_the_prompt_explains_the_image_is_said_and_kept(explained, said, tmp_path):
    path = tmp_path / "one.p2p.safetensors"
    inversion(True, explained=explained).save(path)
    assert re.fullmatch(f"{said}.*" if explained else "", Inversion.load(path).report_of_prompt)


def test_the_settings_of_a_file_that_does_not_tell_all():
    assert inversion(True).settings == {"steps": 2, "cfg": 7.5}
