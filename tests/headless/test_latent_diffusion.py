"""Latent diffusion with its BERT encoder, the paper's second backbone: small, random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from runs import PROMPT, relative
from safetensors.torch import load_file, save_file

from p2p_core.edits import Refine, Reweight, WordSwap
from p2p_core.hosts.diffusers.inverting import invert
from p2p_core.hosts.diffusers.pipeline import Model
from p2p_core.hosts.diffusers.sampling import Settings, sample
from p2p_core.hosts.diffusers.viewing import sample_and_look
from p2p_core.inversion.methods import Options
from p2p_core.local_blend import LocalBlend

BLANK = torch.zeros(1, 4, 16, 16)
SWAP, SAME = WordSwap("circle", "star"), WordSwap("circle", "circle")
SETTINGS = Settings(4, 3.0)
TOLERANCE, ACROSS_BATCHES = 1e-5, 5e-5


def run(ldm, *chains, **more):
    return sample(ldm, PROMPT, chains, BLANK, SETTINGS, quiet=True, **more)


def test_words_are_made_of_pieces(ldm):
    prompt = ldm.read(PROMPT)
    tokenizer = ldm.pipeline.tokenizer
    found = {word.text: tokenizer.convert_ids_to_tokens(word.ids) for word in prompt.words}
    assert found["circle"] == ["circ", "##le"]
    assert found["grass"] == ["gr", "##ass"]
    assert prompt.tokens_of("circle") == [3, 4]
    assert prompt.length == 77
    with pytest.raises(ValueError, match="at most 75 tokens, got 80"):
        ldm.read("red " * 80)


def test_the_source_is_the_stock_pipelines(ldm):
    scheduler = DDIMScheduler.from_config(ldm.pipeline.scheduler.config)
    noise = torch.randn(BLANK.shape, generator=torch.Generator().manual_seed(5))
    theirs = ldm.pipeline(
        PROMPT,
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=noise.clone(),
        output_type="np",
        height=128,
        width=128,
    ).images
    settings = Settings(4, 3.0, scheduler=scheduler)
    ours = sample(ldm, PROMPT, [(SWAP,)], BLANK, settings, quiet=True, noise=noise)
    pictures = ldm.to_pictures(ours.source).astype(int)
    assert np.abs(pictures - np.round(theirs * 255)).max() <= 1
    assert pictures.std() > 1


def test_identities_and_edits(ldm):
    left = torch.ones(1, 16, 16)
    left[..., 12:] = 0
    chain = (
        Refine("a big red star on the grass, at night"),
        Reweight((("red", 2.0),)),
        LocalBlend(("circle",), ("star",), start=0.0, user_mask=left),
    )
    result = run(ldm, (SAME,), (SWAP, Reweight((("star", 1.0),))), (SWAP,), chain)
    same, one, swapped, edited = result.edited.split(1)
    assert relative(same, result.source) <= TOLERANCE
    assert relative(one, swapped) <= TOLERANCE
    assert relative(swapped, result.source) > 1e-4
    outside = (result.masks[3:] == 0)[:, None].expand_as(edited)
    assert outside.any()
    assert (edited - result.source)[outside].abs().max() <= TOLERANCE * result.source.abs().max()


def test_images_are_inverted_and_looked_at(ldm):
    latent = torch.randn(BLANK.shape, generator=torch.Generator().manual_seed(2))
    inversion = invert(ldm, latent, PROMPT, Options("direct"), SETTINGS)
    result = sample(ldm, PROMPT, [(SWAP,)], latent, SETTINGS, inversion=inversion, quiet=True)
    assert relative(result.source, latent) <= TOLERANCE
    assert relative(result.edited, latent) > 1e-4
    _, seen = sample_and_look(ldm, PROMPT, [], BLANK, ["circle"], settings=SETTINGS, quiet=True)
    assert [one.word for one in seen] == ["circle"]


def test_it_is_loaded_as_it_was_kept(ldm, tmp_path):
    ldm.pipeline.save_pretrained(tmp_path)
    again = Model.load(tmp_path)
    assert relative(again.encode([PROMPT]).tokens, ldm.encode([PROMPT]).tokens) == 0
    weights = tmp_path / "bert" / "model.safetensors"
    kept = load_file(weights)
    save_file(dict(sorted(kept.items())[3:]), weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights of the bert"):
        Model.load(tmp_path)
