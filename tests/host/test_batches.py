"""What is given one an image: an edit has its source's, and a source what the host gives it.

Masks, hints and images to fill in may be more or fewer than the latents; which of them is whose is
decided as in the stock run of the sources alone.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy.controlnet import ControlNet
from control_nets import LastAgain, control_net
from runs import PROMPT, Settings, call, relative

import nodes
from p2p_core.controller import Rows
from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.controlnets import by_block
from p2p_core.hosts.comfyui.sampling import EditGuider, sample

TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
AMPLIFIED = 2e-3
"""With a ControlNet of random weights, which makes rounding grow; another's hint makes 3e-2."""
SETTINGS = Settings(steps=2)
SAME = (WordSwap("circle", "circle"),)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def holes(count):
    """Masks of other halves of the image."""
    masks = torch.zeros(count, 16, 16)
    for n, mask in enumerate(masks):
        mask[slice(8) if n % 2 else slice(None), slice(8) if n < 2 else slice(None)] = 1
    return masks


@pytest.fixture
def compared(demo):
    """Sample sources and an edit that changes nothing: as the stock run's, and as its sources."""

    def run(latent, change=lambda *prompts: prompts, tolerance=ACROSS_BATCHES):
        nothing = demo.encode("")
        encoded = build_controller(demo.clip, PROMPT, [SAME])
        positive, negative = change(encoded.conditioning, nothing)
        result = sample(
            demo.model,
            encoded,
            positive=positive,
            negative=negative,
            latent=latent,
            **vars(SETTINGS),
        )
        plain = change(demo.encode(PROMPT), nothing)
        options = tuple(vars(SETTINGS).values())[:5]
        (stock,) = call(nodes.KSampler, demo.model, *options, *plain, latent, 1.0)
        source, edited = result.source["samples"], result.edited["samples"]
        assert relative(source, stock["samples"]) <= tolerance
        assert relative(edited, source) <= TOLERANCE

    return run


@pytest.mark.parametrize(("latents", "masks"), [(1, 2), (2, 3)])
def test_noise_masks_that_are_not_as_many_as_latents(latents, masks, compared):
    """The host cuts them, or begins anew; two masks are as many as one source's rows."""
    image = {"samples": random(latents, 4, 16, 16)}
    (latent,) = call(nodes.SetLatentNoiseMask, image, holes(masks))
    compared(latent)


def test_masks_of_a_prompt_that_are_not_as_many_as_latents(demo, compared):
    """One for each latent is the host's rule; another count is refused, as the host does."""

    def change(positive, negative):
        masked = call(nodes.ConditioningSetMask, positive, holes(2), "default", 1.0)[0]
        return masked, negative

    compared({"samples": torch.zeros(2, 4, 16, 16)}, change)
    with pytest.raises(ValueError, match=r"mask of the positive conditioning, .* got 2\."):
        compared({"samples": torch.zeros(1, 4, 16, 16)}, change)


def test_noise_masks_of_a_run_that_goes_on(demo):
    """Two masks for one source's two rows are still the source's first one."""
    import comfy_extras.nodes_custom_sampler as custom

    encoded = build_controller(demo.clip, PROMPT, [SAME])
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(encoded.conditioning, demo.encode(""))
    (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", 2, 0.5)
    image = random(1, 4, 16, 16).repeat(2, 1, 1, 1)
    (latent,) = call(nodes.SetLatentNoiseMask, {"samples": image}, holes(2))
    (noise,) = call(custom.RandomNoise, 1)
    ours = EditGuider(guider, encoded, continues=True)
    euler = comfy.samplers.sampler_object("euler")
    rows, _ = call(custom.SamplerCustomAdvanced, noise, ours, euler, sigmas, latent)
    source, edited = rows["samples"].split(1)
    assert relative(edited, source) <= TOLERANCE
    assert relative(source, image[:1]) > 1e-2


def control_nets(kind, model, hints):
    """One of the host's, one that fits hints by another rule, or the second behind the first."""
    nets = [control_net(model, LastAgain if kind == "last again" else ControlNet)]
    if kind == "chained":
        nets.append(control_net(model, LastAgain))
    for n, net in enumerate(nets):
        net.set_cond_hint(random(hints, 3, 128, 128, seed=n))
        if isinstance(net, LastAgain):
            net.mask_cond_hint_original = random(2, 128, 128, seed=2)
            net.strengths = [1.5, 0.5]
    if kind == "chained":
        nets[1].set_previous_controlnet(nets[0])
    return nets[-1]


@pytest.mark.parametrize("kind", ["stock", "chained"])
@pytest.mark.parametrize(("latents", "hints"), [(1, 3), (1, 6), (2, 2), (3, 2)])
def test_a_control_net_gives_every_block_what_it_gives_sources_alone(kind, latents, hints, demo):
    """In a call with a negative and a positive prompt, in float64; six hints are one a row."""
    control, base = control_nets(kind, demo.model, hints), demo.model.model
    for net in (control, control.previous_controlnet):
        if net is not None:
            net.control_model.double().dtype = torch.float64
    width = base.model_config.unet_config["context_dim"]

    def outputs(control, blocks):
        x = random(latents, 4, 16, 16, seed=5).double().repeat(2 * blocks, 1, 1, 1)
        cond = {"c_crossattn": random(1, 77, width).double().expand(len(x), -1, -1)}
        t = torch.full((len(x),), 3.0, dtype=torch.float64)
        control.pre_run(base, base.model_sampling.percent_to_sigma)
        layers = control.get_control(x, t, cond, 2, {"cond_or_uncond": [1, 0]})
        control.cleanup()
        given = [one for part in layers.values() for one in part if one is not None]
        return [one.unflatten(0, (2, blocks, latents)) for one in given]

    ((_, extra),) = by_block({"": [[None, {"control": control}]]}, Rows(latents, 2))[""]
    with torch.no_grad():
        ours, alone = outputs(extra["control"], 3), outputs(control, 1)
    assert len(ours) == len(alone) > 3
    for block, expected in zip(ours, alone, strict=True):
        assert relative(block, expected.expand_as(block)) <= 1e-10


def test_an_edit_has_its_sources_hint_while_it_is_sampled(demo, compared):
    control = control_nets("last again", demo.model, 2)

    def change(*prompts):
        return [
            [[cond, {**extra, "control": control, "control_apply_to_uncond": False}]]
            for ((cond, extra),) in prompts
        ]

    compared({"samples": torch.zeros(2, 4, 16, 16)}, change, AMPLIFIED)


def test_control_nets_are_copied_once_and_left_as_they_were(demo):
    control = control_net(demo.model).set_cond_hint(random(5, 3, 128, 128))
    control.set_previous_controlnet(control_net(demo.model).set_cond_hint(random(1, 3, 128, 128)))
    before = dict(vars(control))
    entry = [torch.zeros(1, 77, 64), {"control": control}]
    given = by_block({"positive": [entry, entry], "negative": [entry, [entry[0], {}]]}, Rows(2, 2))
    (one, two), (three, without) = (
        [extra.get("control") for _, extra in conditioning] for conditioning in given.values()
    )
    assert one is two is three is not control
    assert without is None
    assert vars(control) == before
    assert type(one) is type(control)
    assert "get_control" not in vars(one.previous_controlnet)
    for copied in (one, one.copy()):
        assert "get_control" in vars(copied)
        assert torch.equal(copied.cond_hint_original, control.cond_hint_original[:2])
