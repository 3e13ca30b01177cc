"""Noise that samplers and patches draw while they run is one for a source and its edits.

Samplers and patches here draw as real ones do, but through none of the ways that the host provides:
a generator of their own, other distributions, other sizes, in place, for the texts.
"""

from itertools import pairwise

import comfy.samplers
import numpy
import pytest
import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import EditGuider
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

SETTINGS = Settings(steps=4)
TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
CHAINS = [
    (WordSwap("circle", "circle"),),
    (
        WordSwap(
            "circle",
            "star",
            schedule=Schedule(Window(0, 0.5)),
            self_injection=SelfInjection(Window(0, 0.3)),
        ),
    ),
]


def own_generator(x, generator):
    """RES4LYF's Gaussian noise, in the precision that it samples in."""
    kind = {"dtype": torch.float64, "layout": x.layout, "device": x.device}
    return torch.randn(x.shape, **kind, generator=generator).to(x)


def global_generator(x, generator):
    return torch.randn_like(x)


def varying_sizes(x, generator):
    """RES4LYF's pyramid noise: uniform, and finer noise scaled down."""
    rows, channels, height, width = x.shape
    noise = torch.rand(size=x.shape, device=x.device, generator=generator) - 0.5
    fine = torch.randn((rows, channels, 2 * height, 2 * width), generator=generator)
    return noise + torch.nn.functional.interpolate(fine, (height, width))


def given_deviation(x, generator):
    return torch.normal(mean=0.0, std=0.5, size=x.shape, generator=generator)


def in_place(x, generator):
    return torch.empty_like(x).normal_(generator=generator)


def heavy_tails(x, generator):
    """RES4LYF's Laplacian and Student's noise come of PyTorch's distributions."""
    one = torch.ones_like(x)
    return torch.distributions.Laplace(0 * one, one).rsample() + (
        torch.distributions.StudentT(5 * one).rsample() / 5
    )


def per_channel(x, generator):
    """RES4LYF's Perlin noise for each channel, the same for all rows, beside noise for each row.

    There are as many channels as rows here: they are not to be taken for these.
    """
    shape = (x.shape[1], x.shape[2] + 1, x.shape[3] + 1)
    angles = torch.empty(shape).uniform_(to=6.28, generator=generator)
    return torch.randn(x.shape, generator=generator) + angles[:, 1:, 1:].cos()


def brownian(x, generator):
    sigmas = torch.tensor(0.1), torch.tensor(10.0)
    return BrownianTreeNoiseSampler(x, *sigmas, seed=int(generator.get_state()[0]))(*sigmas)


def ancestral(draw):
    """The function of a sampler of another pack: Euler's ancestral steps, and its own noise."""

    def sample_other(model, x, sigmas, extra_args=None, callback=None, disable=None):
        generator = torch.Generator(x.device).manual_seed(extra_args["seed"] + 1)
        ones = x.new_ones(len(x))
        for sigma, after in pairwise(sigmas):
            denoised = model(x, sigma * ones, **extra_args)
            up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
            down = (after**2 - up**2) ** 0.5
            x = denoised + (x - denoised) * down / sigma
            if after > 0:
                x = x + up * draw(x, generator)
        return x

    return sample_other


class OtherSampler(comfy.samplers.Sampler):
    """A sampler that is no function at all."""

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *rest, **named
    ):
        scaling = model_wrap.inner_model.model_sampling.noise_scaling
        x = scaling(sigmas[0], noise, latent_image, True)
        return ancestral(global_generator)(model_wrap, x, sigmas, extra_args)


@pytest.fixture
def rows_and_stock(demo, latent):
    """All rows of an edited run with a sampler, and the stock run's image."""
    import comfy_extras.nodes_custom_sampler as custom

    def run(sampler, model=None, chains=CHAINS):
        model = demo.model if model is None else model
        encoded = build_controller(demo.clip, PROMPT, chains)
        (stock,) = call(custom.CFGGuider, model, demo.encode(PROMPT), demo.encode(""), SETTINGS.cfg)
        (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", SETTINGS.steps, 1.0)
        outputs = []
        for guider in (EditGuider(stock, encoded), stock):
            (noise,) = call(custom.RandomNoise, SETTINGS.seed)
            output, _ = call(custom.SamplerCustomAdvanced, noise, guider, sampler, sigmas, latent)
            outputs.append(output["samples"])
        return outputs

    return run


def check(rows, stock):
    """The source is the stock image, itself for itself is the source, and an edit is not."""
    source, same, star = rows[:1], rows[1:-1], rows[-1:]
    assert relative(source, stock) <= ACROSS_BATCHES
    assert all(relative(row, source) <= TOLERANCE for row in same.split(1))
    assert relative(star, source) > 1e-2


DRAWS = [
    own_generator,
    global_generator,
    varying_sizes,
    given_deviation,
    in_place,
    heavy_tails,
    brownian,
]


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_samplers_that_draw_their_own_noise(draw, rows_and_stock):
    check(*rows_and_stock(comfy.samplers.KSAMPLER(ancestral(draw))))


def test_noise_of_as_many_channels_as_there_are_rows(rows_and_stock):
    sampler = comfy.samplers.KSAMPLER(ancestral(per_channel))
    check(*rows_and_stock(sampler, chains=[CHAINS[0], *CHAINS]))


def test_a_sampler_that_is_no_function(rows_and_stock):
    check(*rows_and_stock(OtherSampler()))


def test_a_sampler_that_makes_the_latent_larger(rows_and_stock):
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale

    (sampler,) = call(SamplerLCMUpscale, 1.5, -1, "bislerp")
    rows, stock = rows_and_stock(sampler)
    assert rows.shape == (3, 4, 24, 24)
    check(rows, stock)


def noisy_texts(model):
    """As ppm's CADS: noise on the texts before the host makes them a batch."""

    def calc(args):
        conds = [cond and [noisy_entry(entry) for entry in cond] for cond in args["conds"]]
        return comfy.samplers.calc_cond_batch(
            args["model"], conds, args["input"], args["sigma"], args["model_options"]
        )

    def noisy_entry(entry):
        return {**entry, "model_conds": {k: noisy(v) for k, v in entry["model_conds"].items()}}

    def noisy(cond):
        return cond._copy_with(cond.cond + 0.1 * torch.randn_like(cond.cond))

    model.set_model_sampler_calc_cond_batch_function(calc)


def noisy_calls(model):
    """Noise on what a call of the network gets, all branches' chunks at once."""

    def wrapper(apply_model, args):
        x, texts = args["input"], args["c"]["c_crossattn"]
        c = {**args["c"], "c_crossattn": texts + 0.1 * torch.randn_like(texts)}
        return apply_model(x + 0.1 * torch.randn_like(x), args["timestep"], **c)

    model.set_model_unet_function_wrapper(wrapper)


@pytest.mark.parametrize("patch", [noisy_texts, noisy_calls], ids=lambda patch: patch.__name__)
def test_patches_that_draw(patch, demo, rows_and_stock):
    model = demo.model.clone()
    patch(model)
    check(*rows_and_stock(comfy.samplers.sampler_object("euler"), model))


def test_the_network_itself_is_left_alone(demo, rows_and_stock):
    """What draws inside it draws as ever, and every call of PyTorch there costs what it did."""
    inside, outside = [], []

    def patch(n, context, value, options):
        inside.append(torch.randn(3, 4, 2, 2))
        return n, context, value

    def wrapper(apply_model, args):
        outside.append(torch.randn(3, 4, 2, 2))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = demo.model.clone()
    model.set_model_attn1_patch(patch)
    model.set_model_unet_function_wrapper(wrapper)
    rows_and_stock(comfy.samplers.sampler_object("euler"), model)
    edited = len(outside) // 2
    assert all(relative(noise, noise[:1].expand(3, -1, -1, -1)) == 0 for noise in outside[:edited])
    assert all(relative(noise, noise[:1].expand(3, -1, -1, -1)) > 0.1 for noise in inside)


def numpys(x, generator):
    """smZ's noise that repeats what an NVIDIA card draws."""
    numbers = numpy.random.default_rng(0).standard_normal(x.shape, dtype=numpy.float32)
    return torch.asarray(numbers, device=x.device)


def test_noise_that_is_not_pytorchs_is_refused(rows_and_stock):
    with pytest.raises(ValueError, match=r"Expected noise that PyTorch draws, got .* from NumPy"):
        rows_and_stock(comfy.samplers.KSAMPLER(ancestral(numpys)))


def row_by_row(x, generator):
    return torch.stack([torch.randn(row.shape, generator=generator) for row in x])


def noisy_start(model, x, sigmas, extra_args=None, callback=None, disable=None):
    x = x + sigmas[0] * row_by_row(x, torch.Generator().manual_seed(0))
    return ancestral(global_generator)(model, x, sigmas, extra_args)


def test_rows_that_begin_unequal_are_refused(rows_and_stock):
    with pytest.raises(ValueError, match="source and edits to begin as the same latents"):
        rows_and_stock(comfy.samplers.KSAMPLER(noisy_start))


def test_a_local_blend_where_the_latents_size_changes(rows_and_stock):
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale

    (sampler,) = call(SamplerLCMUpscale, 1.5, -1, "bislerp")
    chains = [(*CHAINS[1], LocalBlend(("circle",), ("star",)))]
    with pytest.raises(ValueError, match=r"latents of 16×16 for a local blend .* got 24×24"):
        rows_and_stock(sampler, chains=chains)


def smaller_looks(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """As ppm's dynamic samplers: every step looks at a smaller latent too."""

    def model_twice(x, sigma, **extra):
        model(x[..., ::2, ::2].contiguous(), sigma, **extra)
        return model(x, sigma, **extra)

    return ancestral(global_generator)(model_twice, x, sigmas, extra_args)


def test_a_local_blend_where_a_sampler_also_looks_at_a_smaller_latent(rows_and_stock):
    blend = LocalBlend(("circle",), ("star",))
    plain = ancestral(global_generator)
    rows, other = (
        rows_and_stock(comfy.samplers.KSAMPLER(function), chains=[(*CHAINS[1], blend)])[0]
        for function in (smaller_looks, plain)
    )
    assert relative(rows, other) <= TOLERANCE
