"""Runs of a part of the steps, and runs that go on from another's images."""

from dataclasses import replace

import comfy.samplers
import comfy.utils
import numpy as np
import pytest
import torch
from PIL import Image
from runs import PROMPT, Settings, call, relative

from p2p_core.demo.recognise import matches, recognise
from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import EditGuider, sample
from p2p_core.lab.showcase.exhibits import background_psnr
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
SETTINGS = Settings(steps=6)
SWAP = WordSwap("circle", "star", self_injection=SelfInjection(Window(0, 0)))
SAME = (WordSwap("circle", "circle"),)


@pytest.fixture
def part(demo):
    """A part of the steps of P2P's advanced sampler, of one chain."""

    def run(chain, latent, start=0, end=None, edited=None, **more):
        encoded = build_controller(demo.clip, PROMPT, [chain])
        options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS), **more}
        if start:
            options |= {"start_at_step": start, "add_noise": False, "edited": edited}
        if end is not None:
            options |= {"end_at_step": end, "leftover_noise": True}
        return sample(demo.model, encoded, **options)

    return run


@pytest.fixture
def image():
    """A latent that is no noise and not empty."""
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(4)) / 3


@pytest.mark.parametrize(
    ("start", "end", "noise", "leftover"), [(2, 5, True, False), (3, 99, False, True)]
)
def test_every_part_is_the_stock_advanced_samplers(
    start, end, noise, leftover, demo, image, stock_advanced
):
    encoded = build_controller(demo.clip, PROMPT, [SAME, (SWAP,)])
    result = sample(
        demo.model,
        encoded,
        negative=demo.encode(""),
        latent={"samples": image},
        start_at_step=start,
        end_at_step=end,
        add_noise=noise,
        leftover_noise=leftover,
        **vars(SETTINGS),
    )
    source, edited = result.source["samples"], result.edited["samples"]
    expected = stock_advanced(image, noise, start, end, leftover)
    assert relative(source, expected) <= ACROSS_BATCHES
    assert relative(edited[:2], source) <= TOLERANCE
    assert relative(edited[2:], source) > 1e-3


@pytest.fixture
def stock_advanced(demo):
    import nodes

    def run(samples, noise, start, end, leftover):
        switch = {True: "enable", False: "disable"}
        (latent,) = nodes.KSamplerAdvanced().sample(
            demo.model,
            switch[noise],
            SETTINGS.seed,
            SETTINGS.steps,
            SETTINGS.cfg,
            "euler",
            "normal",
            demo.encode(PROMPT),
            demo.encode(""),
            {"samples": samples},
            start,
            end,
            switch[leftover],
        )
        return latent["samples"]

    return run


def test_a_source_and_its_edits_get_the_same_new_noise(demo, image):
    """A second pass over finished images, of two sources: their noise is the stock run's."""
    import comfy_extras.nodes_custom_sampler as custom

    encoded = build_controller(demo.clip, PROMPT, [SAME, (SWAP,)])
    (guider,) = call(custom.CFGGuider, demo.model, demo.encode(PROMPT), demo.encode(""), 3.0)
    (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", 4, 0.5)
    (noise,) = call(custom.RandomNoise, 11)
    euler = comfy.samplers.sampler_object("euler")

    def run(guider, samples):
        node = custom.SamplerCustomAdvanced
        return call(node, noise, guider, euler, sigmas, {"samples": samples})[0]["samples"]

    rows = run(EditGuider(guider, encoded, continues=True), image.repeat(3, 1, 1, 1))
    source, same, star = rows.split(2)
    assert relative(source, run(guider, image)) <= ACROSS_BATCHES
    assert relative(same, source) <= TOLERANCE
    assert relative(star, source) > 1e-3


def test_a_local_blend_in_a_later_part(part, latent):
    """It has no maps before its first step, and then keeps what is outside them as usual."""
    chain = (SWAP, LocalBlend(("circle",), ("star",)))
    first = part(chain, latent, end=3)
    second = part(chain, first.source, start=3, edited=first.edited)
    source, edited = second.source["samples"], second.edited["samples"]
    outside = (second.masks == 0)[:, None].expand_as(source)
    assert outside.any()
    assert not outside.all()
    assert (edited - source)[outside].abs().max() <= 1e-5 * source.abs().max()
    assert relative(edited, source) > 1e-3


def test_a_background_behind_two_parts_is_as_behind_one_run(part, latent, image):
    """The part that adds no noise puts the background under the noise of its seed."""
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    chain = (SWAP, LocalBlend(user_mask=left, start=0.0, background=image[:1]))
    whole = part(chain, latent)
    first = part(chain, latent, end=3)
    second = part(chain, first.source, start=3, edited=first.edited)
    assert relative(second.edited["samples"], whole.edited["samples"]) <= TOLERANCE
    assert relative(whole.edited["samples"][..., 8:], image[:1, ..., 8:]) <= TOLERANCE


SECOND_PASS = (
    ("a red circle on the grass", "red", "blue", "circle", 4),
    ("a red heart on sand", "red", "green", "heart", 3),
)
LOST = 2.0
"""Decibels that a background may lose in a second pass."""


@pytest.mark.parametrize(("prompt", "old", "new", "shape", "seed"), SECOND_PASS)
def test_a_second_pass_keeps_the_background_as_well_as_the_first(
    prompt, old, new, shape, seed, demo
):
    """Hires fix: source and edit are decoded, enlarged and denoised a little, with the edit."""
    everywhere = Schedule(Window(0.0, 1.0))
    swap = WordSwap(old, new, schedule=everywhere, self_injection=SelfInjection(Window(0.0, 0.8)))
    encoded = build_controller(demo.clip, prompt, [(WordSwap(old, old),), (swap,)])
    settings = replace(SETTINGS, steps=16, seed=seed)
    first = sample(
        demo.model,
        encoded,
        negative=demo.encode(""),
        latent={"samples": torch.zeros(1, 4, 16, 16)},
        **vars(settings),
    )
    source, edited = (enlarged(demo, one) for one in (first.source, first.edited))
    second = sample(
        demo.model,
        encoded,
        negative=demo.encode(""),
        latent=source,
        edited=edited,
        **vars(replace(settings, denoise=0.3)),
    )
    assert relative(second.edited["samples"][:1], second.source["samples"]) <= TOLERANCE
    before = kept(*(pictures(demo, one)[-1] for one in (first.source, first.edited)))
    large = [pictures(demo, one)[-1] for one in (second.source, second.edited)]
    assert kept(*large) >= before - LOST
    (right,) = matches(recognise(small(large[1])), ({"colour": new, "shape": shape},))
    assert right["colour"]


def enlarged(demo, latent):
    """By half, as pictures."""
    pixels = demo.vae.decode(latent["samples"]).movedim(-1, 1)
    larger = comfy.utils.common_upscale(pixels, 192, 192, "bicubic", "disabled")
    return {"samples": demo.vae.encode(larger.movedim(1, -1))}


def pictures(demo, latent):
    """Decoded: uint8[images height width 3]."""
    return (demo.vae.decode(latent["samples"]).clamp(0, 1) * 255).round().byte().numpy()


def small(picture):
    """At the size that the renderer knows."""
    return np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BOX))


def kept(source, edit):
    """How well the background is kept, in dB."""
    source, edit = small(source), small(edit)
    return background_psnr(source, edit, (recognise(source), recognise(edit)))
