"""Both hosts make the same picture of the same weights, noise and levels."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import numpy as np
import pytest
import torch
from runs import relative

from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.inverting import invert_latent
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.inversion.methods import METHODS, Options
from p2p_core.inversion.null_text import Schedule as NullTexts
from p2p_core.lab.metrics import psnr
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

pytest.importorskip("diffusers", reason="needs the headless extra: pip install .[headless]")

from p2p_core.hosts.diffusers import sampling as other
from p2p_core.hosts.diffusers.inverting import invert
from p2p_core.hosts.diffusers.pipeline import SCHEDULERS, Model

PROMPT = "a red circle on the grass"
LEAST = 60.0
"""dB"""
SWAP = WordSwap("circle", "star")
EDITS = {
    "swap": (SWAP,),
    "several tokens": (WordSwap("red circle", "very big striped blue star"),),
    "refine": (Refine("a big red circle on the green grass"),),
    "reweight": (Reweight((("red", -1.0), ("grass", 2.0))),),
    "refine, reweight": (Refine("a striped red circle on sand"), Reweight((("striped", 2.0),))),
    "window of a word": (
        WordSwap(
            "circle", "star", schedule=Schedule(Window(0, 0.2), (("star", Window(0, 1, 0.5)),))
        ),
    ),
    "self-attention everywhere": (
        WordSwap("circle", "star", 1, Schedule(), SelfInjection(Window(), 1.0)),
    ),
    "local blend": (SWAP, LocalBlend(("circle",), ("star",), softness=0.2, grow=1)),
}


@pytest.fixture(scope="module")
def model():
    return Model.demo()


def pictures(demo, latents):
    return (demo.vae.decode(latents).clamp(0, 1) * 255).round().byte().cpu().numpy()


def both(demo, model, chains, **settings):
    """(source, edits) of each host as uint8 pictures."""
    return tuple(pictures(demo, made) for made in latents(demo, model, chains, **settings))


def latents(demo, model, chains, **settings):
    """(source, edits) of each host."""
    options = {"steps": 12, "cfg": 3.0, "seed": 0, "denoise": 1.0, "scheduler": "normal"}
    options |= settings
    inversions = options.pop("inversions", (None, None))
    latent = options.pop("latent", torch.zeros(1, 4, 16, 16))
    sampler = options.pop("sampler", "euler")
    ours = sample(
        demo.model,
        build_controller(demo.clip, PROMPT, chains),
        negative=demo.encode(""),
        latent={"samples": latent},
        sampler_name=sampler,
        inversion=inversions[0],
        **options,
    )
    theirs = other.sample(
        model,
        PROMPT,
        chains,
        latent,
        other.Settings(sampler=sampler, **options),
        inversion=inversions[1],
        noise=comfy.sample.prepare_noise(latent, options["seed"]),
        quiet=True,
    )
    return (
        torch.cat([ours.source["samples"], ours.edited["samples"]]),
        torch.cat([theirs.source, theirs.edited]),
    )


def test_prompts_and_texts(demo, model):
    """Words, tokens and embeddings are the same."""
    from p2p_core.hosts.comfyui.prompts import read

    for text in (PROMPT, "a striped-ish cat's  photo, 8K!", "", "naïve café"):
        assert model.read(text) == read(demo.clip, text)
        assert torch.allclose(model.encode([text]).tokens, demo.encode(text)[0][0], atol=1e-5)


def test_the_autoencoder(demo, model):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert psnr(pictures(demo, latent), model.to_pictures(latent)) >= LEAST
    picture = pictures(demo, latent)
    ours = demo.vae.encode(torch.from_numpy(picture / 255).float())
    assert torch.allclose(model.to_latent(picture), ours, atol=1e-4)


@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_edit(edit, demo, model):
    ours, theirs = both(demo, model, [EDITS[edit]])
    assert psnr(ours[0], theirs[0]) >= LEAST
    assert psnr(ours[1], theirs[1]) >= LEAST
    assert psnr(ours[0], ours[1]) < 45


def test_batches_of_sources_and_edits(demo, model):
    chains = [EDITS["swap"], EDITS["refine"], EDITS["local blend"]]
    ours, theirs = both(demo, model, chains, latent=torch.zeros(2, 4, 16, 24))
    assert len(ours) == len(theirs) == 8
    assert all(psnr(one, two) >= LEAST for one, two in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("steps", "denoise"), [(1, 1.0), (33, 1.0), (50, 1.0), (12, 0.7)])
def test_levels(scheduler, steps, denoise, demo, model):
    theirs = comfy.samplers.KSampler(
        demo.model, steps, torch.device("cpu"), "euler", scheduler, denoise
    ).sigmas
    assert model.sigmas(steps, denoise, scheduler) == pytest.approx(theirs.tolist(), rel=1e-4)


@pytest.mark.parametrize("denoise", [1.0, 0.99])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_noise_that_sampling_begins_with(scheduler, denoise, demo, model):
    """As in training only from the model's last level, which “ddim_uniform” does not begin at.

    A denoise of 0.99 leaves out none of 3 steps. From level σ, beginning otherwise is 1 / (2 σ²) of
    the noise off: 2e-3 for “normal”, 5e-2 for “ddim_uniform”.
    """
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    settings = {"steps": 3, "denoise": denoise, "scheduler": scheduler, "latent": latent}
    ours, theirs = latents(demo, model, [EDITS["swap"]], **settings)
    assert relative(ours, theirs) <= 5e-4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_images_half_denoised(scheduler, demo, model):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    settings = {"denoise": 0.6, "scheduler": scheduler}
    ours, theirs = both(demo, model, [EDITS["swap"]], latent=latent, **settings)
    assert all(psnr(one, two) >= LEAST for one, two in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_inversions(method, demo, model):
    """Trajectories to a thousandth; the edited pictures, too, but where Adam walks along noise."""
    from p2p_core.demo.scenes import Item, Scene, render

    scene = Scene((Item("circle", "red", "plain", 60.0, 64.0, 30.0),), "grass", (0.9, 0.0), ())
    latent = demo.vae.encode(torch.from_numpy(np.asarray(render(scene), np.float32) / 255)[None])
    options = Options(method, NullTexts(inner_steps=2))
    settings = {"steps": 8, "denoise": 1.0}
    ours = invert_latent(
        demo.model,
        demo.clip,
        PROMPT,
        options,
        negative=demo.encode(""),
        latent={"samples": latent},
        vae=demo.vae,
        scheduler="normal",
        guidance=3.0,
        **settings,
    )
    theirs = invert(model, latent, PROMPT, options, other.Settings(cfg=3.0, **settings))
    error = (ours.found.trajectory - theirs.found.trajectory).abs().max()
    assert error <= 1e-3 * ours.found.trajectory.abs().max()
    assert ours.psnr[0] == pytest.approx(theirs.psnr[0], rel=1e-2)
    edited = both(
        demo, model, [EDITS["swap"]], latent=latent, inversions=(ours, theirs), **settings
    )
    least = 30 if method == "null-text" else LEAST
    assert all(psnr(one, two) >= least for one, two in zip(*edited, strict=True))
