"""Every inversion method on a network that is linear, so that what it must find has a formula.

The network is the exact denoiser of images that are normal with unit variance about what the text
says, m the text's mean image: x = a · image + σ · noise gives D(x, σ) = m + a (x − a m) / (a² + σ²)
and dx/dσ = (x − D) / σ. Diffusion has a = 1, a flow a = 1 − σ; whatever the methods find is held to
the same formulas in both.
"""

from dataclasses import replace

import pytest
import torch
from text_tokenizers import reader

from p2p_core.blending import Blending
from p2p_core.controller import Rows, plan
from p2p_core.edits import WordSwap
from p2p_core.inversion import ddim, direct, negative_prompt, noising, null_text
from p2p_core.inversion.explaining import explained
from p2p_core.inversion.methods import METHODS, Options, drawn
from p2p_core.inversion.null_text import Schedule, gradient
from p2p_core.inversion.task import DIFFUSION, FLOW, Embedding, Task, classifier_free, replay

LEVELS = {DIFFUSION: (8.0, 4.0, 2.0, 1.0, 0.5, 0.0), FLOW: (1.0, 0.85, 0.65, 0.4, 0.2, 0.0)}
SPACES = pytest.mark.parametrize("space", LEVELS, ids=("diffusion", "flow"))
SHAPE = (2, 3, 2)
CHANNELS, TOKENS = 12, 5
CFG = 3.0
EXACT = 60
"""Iterations that leave less than float64 sees: each leaves at most half of the error."""
TOLERANCE = 1e-12


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MIX = torch.linalg.qr(normal(CHANNELS, CHANNELS, seed=9)).Q
"""A text's mean channels → its image; it keeps lengths."""


def mean_image(text):
    return (text.tokens.mean(1) @ MIX).unflatten(1, SHAPE)


def share(sigma, space):
    """How much of an image is in x: a; and how D grows with x: a / (a² + σ²)."""
    one = torch.ones((), dtype=torch.float64)
    a = float(space.noised(one, 0 * one, sigma))
    return a, a / (a**2 + sigma**2)


def seen(x, sigma, text, space=DIFFUSION):
    a, growth = share(sigma, space)
    mean = mean_image(text)
    return mean + growth * (x - a * mean)


def task(space=DIFFUSION, images=2, cfg=CFG, sigmas=None):
    source, negative = (Embedding(normal(images, TOKENS, CHANNELS, seed=n)) for n in (1, 2))
    latent, guide = normal(images, *SHAPE), classifier_free(cfg)

    def denoise(x, sigma, *texts):
        return [seen(x, sigma, text, space) for text in texts if text]

    return Task(denoise, latent, sigmas or LEVELS[space], source, negative, guide, space)


def walked(x, of, null=None, cfg=1.0):
    """Every level of the sampler's own walk from noise: Euler's steps, guided against `null`."""
    levels = [x]
    for sigma, sigma_next in of.steps:
        image = seen(x, sigma, of.source, of.space)
        if null is not None:
            uncond = seen(x, sigma, null, of.space)
            image = uncond + cfg * (image - uncond)
        x = x + (sigma_next - sigma) * (x - image) / sigma
        levels.append(x)
    return torch.stack(levels)


def close(ours, expected):
    return bool((ours - expected).abs().max() <= TOLERANCE * expected.abs().max())


def undone(of):
    """The levels whose sampler steps end on the image, solved for: no iteration."""
    x, levels = of.latent, [of.latent]
    for sigma, sigma_next in reversed(of.steps):
        a, growth = share(sigma, of.space)
        part = (sigma - sigma_next) / sigma  # x_next = (1 - part) x + part D(x)
        mean = part * (1 - growth * a) * mean_image(of.source)
        x = (x - mean) / (1 - part + part * growth)
        levels.append(x)
    return torch.stack(levels[::-1])


@SPACES
def test_ddim_inversion_with_enough_iterations_undoes_the_samplers_steps(space):
    one = task(space)
    trajectory = ddim.invert(one, EXACT).trajectory
    assert close(trajectory, undone(one))
    assert close(walked(trajectory[0], one), trajectory)


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize(("space", "sigma"), [(DIFFUSION, 2.0), (FLOW, 0.6)])
def test_every_fixed_point_iteration_leaves_the_same_part_of_the_error(space, sigma, iterations):
    """The step to the image shrinks it by 1 − a / (a² + σ²); it begins at x / c_in(σ)."""
    one = task(space, sigmas=(sigma, 0.0))
    exact = undone(one)[0]
    error = one.latent / space.c_in(sigma) - exact
    part = (1 - share(sigma, space)[1]) ** (1 + iterations)
    assert close(ddim.invert(one, iterations).trajectory[0], exact + part * error)


def test_the_null_texts_gradient_is_the_one_on_paper():
    """ε is linear in every token, by (cfg − 1) σ / (1 + σ²) / tokens; each image has its own."""
    one, sigma = task(), 2.0
    null = one.negative.tokens.clone().requires_grad_()
    x, direction = normal(2, *SHAPE, seed=3), normal(2, *SHAPE, seed=4)
    direction[1] *= 1e-9
    slope = one.guided(x, sigma, Embedding(null))
    by_token = (CFG - 1) * sigma / (1 + sigma**2) / TOKENS * direction.flatten(1) @ MIX.T
    found = gradient(slope, null, direction)
    for image in range(2):
        assert close(found[image], by_token[image].expand(TOKENS, -1))


def test_small_gradients_survive_a_network_of_half_precision():
    def halved(x, sigma, *texts):
        cast = [text and Embedding(text.tokens.half()) for text in texts]
        means = [(t.tokens.mean(1) @ MIX.half()).unflatten(1, SHAPE) for t in cast if t]
        return [((x.half() + sigma**2 * m) / (1 + sigma**2)).to(x.dtype) for m in means]

    one, sigma = replace(task(), denoise=halved), 2.0
    null = one.negative.tokens.clone().requires_grad_()
    direction = 1e-9 * normal(2, *SHAPE, seed=4)
    found = gradient(one.guided(normal(2, *SHAPE), sigma, Embedding(null)), null, direction)
    by_token = (CFG - 1) * sigma / (1 + sigma**2) / TOKENS * direction.flatten(1) @ MIX.T
    error = (found - by_token[:, None]).abs().max()
    rounding = CHANNELS * 2**-11  # of a sum of so many products
    assert error <= rounding * by_token.abs().max()


@SPACES
def test_null_texts_lead_guided_sampling_back_to_the_image(space):
    one = task(space)
    schedule = Schedule(500, 0.05, 1e-8)
    found = null_text.invert(one, schedule)
    error = (replay(one, found) - one.latent).square().mean()
    adrift = (replay(one, ddim.invert(one)) - one.latent).square().mean()
    assert error <= schedule.early_stop * (1 + 2 * len(one.steps))
    assert adrift > 1e-2


def test_null_texts_are_played_back_at_the_steps_that_they_were_found_for():
    one = task()
    found = null_text.invert(one, Schedule(3))
    steps = len(one.steps)
    for n in range(steps):
        for progress in (n / steps, (n + 0.5) / steps):
            assert torch.equal(found.null_embeddings_at(progress), found.null_embeddings[n])
    assert torch.equal(found.null_embeddings_at(1.0), found.null_embeddings[-1])
    assert direct.invert(one).null_embeddings_at(0.5) is None


@SPACES
def test_ddim_is_replayed_under_guidance(space):
    one = task(space)
    found = ddim.invert(one)
    assert close(replay(one, found), walked(found.trajectory[0], one, one.negative, CFG)[-1])
    exact = replace(one, guide=classifier_free(1.0))
    assert close(replay(exact, ddim.invert(exact, EXACT)), one.latent)


@SPACES
def test_the_source_text_as_negative_takes_guidance_out_of_the_replay(space):
    one = task(space)
    found = negative_prompt.invert(one, EXACT)
    assert found.source_as_negative
    assert close(replay(one, found), one.latent)
    assert not close(replay(one, ddim.invert(one, EXACT)), one.latent)


def test_proximal_guidance_takes_each_rows_quantile_off_its_differences():
    rows = torch.tensor([[-4.0, 1.0, 2.0, -3.0, 0.0], [40.0, -10.0, 20.0, 30.0, 0.0]])
    expected = torch.tensor([[-2.0, 0.0, 0.0, -1.0, 0.0], [20.0, 0.0, 0.0, 10.0, 0.0]])
    assert torch.equal(negative_prompt.proximal(rows, 0.5), expected)


@SPACES
def test_noise_is_added_at_every_level(space):
    one = task(space)
    noises = [drawn(one.latent, n) for n in range(len(one.sigmas))]
    for found, expected in (
        (noising.invert(one, noises[0]), [noises[0]] * len(one.sigmas)),
        (noising.invert_edit_friendly(one, noises), noises),
    ):
        for n, sigma in enumerate(one.sigmas):
            image = share(sigma, space)[0] * one.latent
            assert close(found.trajectory[n], image + sigma * expected[n].double())
    with pytest.raises(ValueError, match="shorter"):
        noising.invert_edit_friendly(one, noises[1:])


RESTORED = ("direct", "direct-shared", "edit-friendly", "noise", "residual")
ENDS = ("null-text", "negative-prompt", "direct", "direct-shared", "residual")
"""Methods whose path is the walk to noise."""


@SPACES
@pytest.mark.parametrize("method", METHODS)
def test_each_method_says_how_to_sample(method, space):
    one = task(space)
    found = Options(method, Schedule(2))(one)
    assert found.restore_source == (method in RESTORED)
    assert found.shared == (method in ("direct-shared", "edit-friendly"))
    assert (found.null_embeddings is not None) == (method == "null-text")
    assert found.source_as_negative == (method in ("negative-prompt", "residual"))
    assert (found.residual is not None) == (method == "residual")
    assert torch.equal(found.trajectory[-1], one.latent)
    if method in ENDS:
        assert torch.equal(found.trajectory, Options("ddim")(one).trajectory)
    if method in RESTORED:
        assert torch.equal(replay(one, found), one.latent)
    assert Options(method).suits("dpmpp_2m") == (method in RESTORED)
    assert Options(method).suits("euler")


def test_what_is_drawn_is_drawn_again():
    latent = task().latent
    assert torch.equal(drawn(latent, 3), drawn(latent, 3))
    assert not torch.equal(drawn(latent, 3), drawn(latent, 4))
    one = task()
    for method in ("noise", "edit-friendly"):
        given = [normal(2, *SHAPE, seed=20 + n) for n in range(len(one.sigmas))]
        found = Options(method)(one, lambda x, n, given=given: given[n])
        first, second = (found.trajectory[n] - one.latent for n in (0, 1))
        assert close(first / one.sigmas[0], given[0])
        assert close(second / one.sigmas[1], given[method == "edit-friendly"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "Expected one of null-text, .*, got 'magic'"),
        ({"method": "negative-prompt", "proximal": 1.0}, "proximal within 0 and 1, got 1"),
        ({"method": "ddim", "proximal": 0.5}, "belongs to negative-prompt inversion"),
        ({"method": "edit-friendly", "iterations": 2}, "there is no walk to refine"),
    ],
)
def test_options_that_no_method_has(options, said):
    with pytest.raises(ValueError, match=said):
        Options(**options)


@pytest.mark.parametrize("method", METHODS)
def test_without_guidance_there_is_no_negative_prompt_to_work_by(method):
    options = Options(method)
    options.check_guidance(3.0)
    if method in ("null-text", "negative-prompt"):
        with pytest.raises(ValueError, match=r"a cfg other than 1 .* Choose the method residual"):
            options.check_guidance(1.0)
    else:
        options.check_guidance(1.0)


def test_fewer_than_no_iterations():
    with pytest.raises(ValueError, match="0 or more fixed-point iterations, got -1"):
        Options("ddim", iterations=-1)(task())


# ------------------------------------------------- an edited row beside a source that is restored


def sampled(of, found, edited, ancestral=0.0):
    """The last latents of source and edited rows, by a sampler that shares its noise.

    `ancestral` is the part of the next level's variance that is drawn anew, 0 Euler's method.
    Before each step, and at the end, what is restored is restored, as a host's sampler has it; and
    the network is asked beside the rows where a residual says so.
    """
    swap = WordSwap("cat", "dog")
    controller, rows = plan("a cat", [(swap,)], reader()), Rows(len(of.latent), 1)
    blending = Blending(controller, rows, [1.0], of.latent.shape[-2:], of.sigmas, found)
    texts = Embedding(torch.cat([of.source.tokens, edited.tokens]))
    negative = of.source if found.source_as_negative else of.negative
    nulls = Embedding(rows.of_sources(negative.tokens))
    x = rows.of_sources(found.trajectory[0])
    for n, (sigma, sigma_next) in enumerate(of.steps):
        blending.apply(x, sigma, lambda background, sigma: background)
        residual = found.residual_at(sigma, of.sigmas)
        beside = rows.of_sources(0 * x[rows.source_block] if residual is None else residual)
        there = x + beside
        seen_of = [seen(there, sigma, text, of.space) for text in (texts, nulls)]
        image = of.guide(there, sigma, *seen_of, nulls) - beside
        low = sigma_next * (1 - ancestral) ** 0.5
        up = (sigma_next**2 - low**2) ** 0.5
        x = image + (x - image) * low / sigma
        x = x + rows.of_sources(up * normal(*of.latent.shape, seed=40 + n))
    blending.apply(x, 0.0, lambda background, sigma: background, done=True)
    return x[rows.source_block], x[rows.block(0)]


@SPACES
@pytest.mark.parametrize("ancestral", [0.0, 0.75])
@pytest.mark.parametrize("method", ["edit-friendly", "direct-shared"])
def test_an_edit_that_changes_nothing_is_the_source_on_a_shared_path(method, ancestral, space):
    one = task(space)
    source, edited = sampled(one, Options(method)(one), one.source, ancestral)
    assert torch.equal(source, one.latent)
    assert close(edited, one.latent)


@SPACES
@pytest.mark.parametrize("iterations", [0, 3])
def test_an_edit_that_changes_nothing_is_the_source_beside_a_residual(iterations, space):
    """It runs free, one evaluation a step of each text, and needs none of its source."""
    one = task(space)
    found = Options("residual", iterations=iterations)(one)
    source, edited = sampled(one, found, one.source)
    assert torch.equal(source, one.latent)
    assert close(edited, one.latent)
    assert not close(sampled(one, replace(found, residual=None), one.source)[1], one.latent)
    other = Embedding(normal(2, TOKENS, CHANNELS, seed=5))
    assert not close(sampled(one, found, other)[1], one.latent)


@SPACES
def test_a_prompt_is_measured_by_what_it_leaves_open(space):
    """Images that are what the text says, but for a little of what another says."""
    one = task(space)
    means = [mean_image(text) for text in (one.source, one.negative)]
    draw = drawn
    for part in (0.0, 0.2, 1.0):
        image = (1 - part) * means[0] + part * means[1]
        own = replace(one, latent=image)
        found = explained(own, draw)
        swapped = explained(replace(own, source=one.negative, negative=one.source), draw)
        assert len(found) == len(image)
        if part == 1.0:
            assert max(found) < 0 < min(swapped)
        else:
            assert max(swapped) < 0 < min(found)
        assert explained(replace(own, negative=own.source), draw) == (0.0, 0.0)


@SPACES
@pytest.mark.parametrize("method", ["direct", "noise"])
def test_beside_a_path_of_its_own_the_edited_row_runs_free(method, space):
    one = task(space)
    found = Options(method)(one)
    source, edited = sampled(one, found, one.source)
    assert torch.equal(source, one.latent)
    assert close(edited, walked(found.trajectory[0], one, one.negative, CFG)[-1])
    assert not close(edited, one.latent)


@pytest.mark.parametrize("ancestral", [0.0, 0.75])
def test_a_shared_path_is_edit_friendly_ddpms(ancestral):
    """Its z: what takes the source from the mean of its step to the next level (their eq. 4).

    The sampler's own noise is in neither: it moves source and edited row alike.
    """
    one = task()
    found = Options("edit-friendly")(one)
    other = Embedding(normal(2, TOKENS, CHANNELS, seed=5))
    x = found.trajectory[0]
    for n, (sigma, sigma_next) in enumerate(one.steps):
        low = sigma_next * (1 - ancestral) ** 0.5

        def mean(x, text, sigma=sigma, low=low):
            uncond = seen(x, sigma, one.negative)
            image = uncond + CFG * (seen(x, sigma, text) - uncond)
            return image + (x - image) * low / sigma

        z = found.trajectory[n + 1] - mean(found.trajectory[n], one.source)
        x = mean(x, other) + z
    _, edited = sampled(one, found, other, ancestral)
    assert close(edited, x)
    assert not close(edited, one.latent)
