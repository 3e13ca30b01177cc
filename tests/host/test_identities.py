"""What must come out the same as the stock host's result, on the real host."""

import copy

import comfy.sample
import comfy.samplers
import pytest
import torch
from runs import PROMPT, Settings, relative

from p2p_core.controller import Rows
from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.attention import attach
from p2p_core.hosts.comfyui.conditioning import Payload, batched, build_controller
from p2p_core.schedules import Schedule, Window

NEVER = Window(0.0, 0.0)
SAMPLERS = [
    name
    for name in comfy.samplers.KSampler.SAMPLERS
    if not name.endswith("_gpu") and name != "dpm_adaptive"
]
TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
"""Between runs of other batch sizes: kernels round differently, and some samplers amplify it."""


def swap(words="circle", replacement="star", cross=None, own=None):
    return WordSwap(
        words,
        replacement,
        schedule=Schedule(cross or Window(0.0, 0.8)),
        self_injection=SelfInjection(own or Window(0.0, 0.4)),
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_identities_with_every_sampler(sampler, p2p, stock, latent):
    """Source as stock, itself for itself as source, empty windows as the plain edited prompt."""
    settings = Settings(sampler_name=sampler)
    chains = [(swap(),), (swap("circle", "circle"),), (swap(cross=NEVER, own=NEVER),)]
    source, edited = p2p(chains, latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= ACROSS_BATCHES
    assert relative(edited[:1], source) > 1e-3
    assert relative(edited[1:2], source) <= TOLERANCE
    plain = stock(PROMPT.replace("circle", "star"), latent, settings)
    assert relative(edited[2:], plain) <= ACROSS_BATCHES


def test_a_sampler_that_chooses_its_steps_from_the_whole_batch(p2p, stock, latent):
    """Its source is close to the stock one only; what an edit leaves alone is still the source."""
    settings = Settings(sampler_name="dpm_adaptive")
    source, edited = p2p([(swap("circle", "circle"),)], latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= 0.05
    assert relative(edited, source) <= TOLERANCE


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler(scheduler, p2p, stock, latent):
    settings = Settings(scheduler=scheduler)
    source, _ = p2p([(swap(),)], latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= TOLERANCE


def test_guidance_of_one(p2p, stock, latent):
    settings = Settings(cfg=1.0)
    source, edited = p2p([(swap(),)], latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= TOLERANCE
    assert relative(edited, source) > 1e-2


def test_partial_denoising_of_an_image(p2p, stock):
    latent = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    settings = Settings(denoise=0.5)
    source, edited = p2p([(swap(),)], latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= TOLERANCE
    assert relative(edited, source) > 1e-3


def test_inpainting_mask_keeps_what_it_covers_in_all_images(p2p, stock):
    samples = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    latent = {"samples": samples, "noise_mask": mask}
    settings = Settings(sampler_name="ddim")
    source, edited = p2p([(swap(),)], latent, settings)
    assert relative(source, stock(PROMPT, latent, settings)) <= TOLERANCE
    assert relative(edited[..., :2, :], samples[..., :2, :]) <= TOLERANCE


def test_images_that_are_not_square(p2p, stock):
    latent = {"samples": torch.zeros(1, 4, 24, 16)}
    source, edited = p2p([(swap(),)], latent, Settings())
    assert relative(source, stock(PROMPT, latent, Settings())) <= TOLERANCE
    assert edited.shape == (1, 4, 24, 16)


def test_an_area_of_the_positive_leaves_the_negative_alone(demo, p2p, latent):
    """The host copies an area, uuid and all, to the negative; one of everything changes nothing."""
    encoded = build_controller(demo.clip, PROMPT, [(swap(),)])
    (cond, extra) = batched(
        encoded.conditioning, Payload(encoded.controller, Rows(1, 1)), "positive"
    )[0]
    plain = p2p([(swap(),)], latent, Settings())
    noise = comfy.sample.prepare_noise(latent["samples"], Settings().seed).repeat(2, 1, 1, 1)
    result = comfy.sample.sample(
        attach(demo.model),
        noise,
        Settings().steps,
        Settings().cfg,
        "euler",
        "normal",
        [[cond, {**extra, "area": (16, 16, 0, 0)}]],
        demo.encode(""),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=Settings().seed,
    )
    assert relative(result, torch.cat(plain)) <= TOLERANCE


def test_a_batch_of_sources_and_many_edits(p2p, stock):
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    chains = [
        (swap("circle", word),)
        for word in ("star", "heart", "moon", "ring", "cross", "square", "box", "hoop")
    ]
    source, edited = p2p(chains, latent, Settings())
    assert relative(source, stock(PROMPT, latent, Settings())) <= TOLERANCE
    assert edited.shape[0] == 16
    alone_source, alone = p2p(chains[2:3], latent, Settings())
    assert relative(source, alone_source) <= TOLERANCE
    assert relative(edited[4:6], alone) <= TOLERANCE  # the third edit of both sources


def test_numbered_batch_keeps_each_images_noise(p2p, stock):
    latent = {"samples": torch.zeros(2, 4, 16, 16), "batch_index": [3, 1]}
    source, _ = p2p([(swap(),)], latent, Settings())
    assert relative(source, stock(PROMPT, latent, Settings())) <= TOLERANCE


def test_a_longer_prompt_than_one_chunk(p2p, stock, latent):
    prompt = PROMPT + ", the grass" * 30
    source, edited = p2p([(swap(),)], latent, Settings(), prompt=prompt)
    assert relative(source, stock(prompt, latent, Settings())) <= TOLERANCE
    same_source, same = p2p([(swap("circle", "circle"),)], latent, Settings(), prompt=prompt)
    assert relative(same, same_source) <= TOLERANCE
    assert relative(edited, source) > 1e-2


def test_an_edit_that_needs_another_chunk(p2p, stock, latent):
    """Source of 77 tokens, edited prompt of 154: the shorter one's tokens are repeated."""
    words = "star" + ", the grass" * 30
    source, edited = p2p([(swap("circle", words, cross=NEVER, own=NEVER),)], latent, Settings())
    assert relative(source, stock(PROMPT, latent, Settings())) <= TOLERANCE
    plain = stock(PROMPT.replace("circle", words), latent, Settings())
    assert relative(edited, plain) <= TOLERANCE


def test_the_same_run_twice_gives_the_same_bits(p2p, latent):
    first, second = (p2p([(swap(),)], latent, Settings(sampler_name="dpmpp_sde")) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_model_and_inputs_are_left_as_they_were(demo, p2p, latent):
    options = copy.deepcopy(demo.model.model_options)
    weights = {key: value.clone() for key, value in demo.model.model.state_dict().items()}
    samples, negative = latent["samples"].clone(), demo.encode("")
    negative_before = negative[0][0].clone()
    p2p([(swap(),)], latent, Settings(), negative=negative)
    assert demo.model.model_options == options
    assert demo.model.wrappers == {}
    assert demo.model.patches == {}
    after = demo.model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    assert torch.equal(latent["samples"], samples)
    assert list(latent) == ["samples"]
    assert torch.equal(negative[0][0], negative_before)
    assert set(negative[0][1]) == {"pooled_output"}


def test_nothing_is_left_behind_when_a_run_fails(demo, p2p, stock, latent):
    def fail(args):
        raise RuntimeError("on purpose")

    broken = demo.model.clone()
    broken.set_model_sampler_cfg_function(fail)
    before = stock(PROMPT, latent, Settings())
    with pytest.raises(RuntimeError, match="on purpose"):
        p2p([(swap(),)], latent, Settings(sampler_name="dpmpp_sde"), model=broken)
    assert torch.equal(stock(PROMPT, latent, Settings()), before)
    assert torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))[0].equal(
        torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))
    )
