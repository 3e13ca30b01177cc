"""Every inversion method on a network that is linear, so that what it must find has a formula.

The network is the exact denoiser of images that are normal with unit variance about what the text
says: D(x, σ) = (x + σ² m) / (1 + σ²), m the text's mean image, and so ε = σ (x − m) / (1 + σ²).
"""

from dataclasses import replace

import pytest
import torch
from text_tokenizers import reader

from p2p_core.blending import Blending
from p2p_core.controller import Rows, plan
from p2p_core.edits import WordSwap
from p2p_core.inversion import ddim, direct, negative_prompt, noising, null_text
from p2p_core.inversion.methods import METHODS, Options, drawn
from p2p_core.inversion.null_text import Schedule, gradient
from p2p_core.inversion.task import Embedding, Task, classifier_free, replay

SIGMAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
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


def seen(x, sigma, text):
    return (x + sigma**2 * mean_image(text)) / (1 + sigma**2)


def denoise(x, sigma, *texts):
    return [seen(x, sigma, text) for text in texts if text]


def task(images=2, cfg=CFG, sigmas=SIGMAS):
    source, negative = (Embedding(normal(images, TOKENS, CHANNELS, seed=n)) for n in (1, 2))
    return Task(denoise, normal(images, *SHAPE), sigmas, source, negative, classifier_free(cfg))


def walked(x, of, null=None, cfg=1.0):
    """Every level of the sampler's own walk from noise: Euler's steps, guided against `null`."""
    levels = [x]
    for sigma, sigma_next in of.steps:
        image = seen(x, sigma, of.source)
        if null is not None:
            uncond = seen(x, sigma, null)
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
        rate = (sigma - sigma_next) * sigma / (1 + sigma**2)
        x = (x - rate * mean_image(of.source)) / (1 - rate)
        levels.append(x)
    return torch.stack(levels[::-1])


def test_ddim_inversion_with_enough_iterations_undoes_the_samplers_steps():
    one = task()
    trajectory = ddim.invert(one, EXACT).trajectory
    assert close(trajectory, undone(one))
    assert close(walked(trajectory[0], one), trajectory)


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
def test_every_fixed_point_iteration_leaves_the_same_part_of_the_error(iterations):
    """The step at σ shrinks it by (σ − σ_next) σ / (1 + σ²); it begins at x / c_in(σ)."""
    sigma = 2.0
    one = task(sigmas=(sigma, 0.0))
    exact = undone(one)[0]
    error = one.latent * (1 + sigma**2) ** 0.5 - exact
    part = (sigma**2 / (1 + sigma**2)) ** (1 + iterations)
    assert close(ddim.invert(one, iterations).trajectory[0], exact + part * error)


def test_the_null_texts_gradient_is_the_one_on_paper():
    """ε is linear in every token, by (cfg − 1) σ / (1 + σ²) / tokens; each image has its own."""
    one, sigma = task(), 2.0
    null = one.negative.tokens.clone().requires_grad_()
    x, direction = normal(2, *SHAPE, seed=3), normal(2, *SHAPE, seed=4)
    direction[1] *= 1e-9
    noise = one.guided(x, sigma, Embedding(null))
    by_token = (CFG - 1) * sigma / (1 + sigma**2) / TOKENS * direction.flatten(1) @ MIX.T
    found = gradient(noise, null, direction)
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


def test_null_texts_lead_guided_sampling_back_to_the_image():
    one = task()
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


def test_ddim_is_replayed_under_guidance():
    one = task()
    found = ddim.invert(one)
    assert close(replay(one, found), walked(found.trajectory[0], one, one.negative, CFG)[-1])
    exact = replace(one, guide=classifier_free(1.0))
    assert close(replay(exact, ddim.invert(exact, EXACT)), one.latent)


def test_the_source_text_as_negative_takes_guidance_out_of_the_replay():
    one = task()
    found = negative_prompt.invert(one, EXACT)
    assert found.source_as_negative
    assert close(replay(one, found), one.latent)
    assert not close(replay(one, ddim.invert(one, EXACT)), one.latent)


def test_proximal_guidance_takes_each_rows_quantile_off_its_differences():
    rows = torch.tensor([[-4.0, 1.0, 2.0, -3.0, 0.0], [40.0, -10.0, 20.0, 30.0, 0.0]])
    expected = torch.tensor([[-2.0, 0.0, 0.0, -1.0, 0.0], [20.0, 0.0, 0.0, 10.0, 0.0]])
    assert torch.equal(negative_prompt.proximal(rows, 0.5), expected)


def test_noise_is_added_at_every_level():
    one = task()
    noises = [drawn(one.latent, n) for n in range(len(SIGMAS))]
    for found, expected in (
        (noising.invert(one, noises[0]), [noises[0]] * len(SIGMAS)),
        (noising.invert_edit_friendly(one, noises), noises),
    ):
        for n, sigma in enumerate(SIGMAS):
            assert torch.equal(found.trajectory[n], one.latent + sigma * expected[n].double())
    with pytest.raises(ValueError, match="shorter"):
        noising.invert_edit_friendly(one, noises[1:])


RESTORED = ("direct", "direct-shared", "edit-friendly", "noise")
ENDS = {"null-text": "ddim", "negative-prompt": "ddim", "direct": "ddim", "direct-shared": "ddim"}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_says_how_to_sample(method):
    one = task()
    found = Options(method, Schedule(2))(one)
    assert found.restore_source == (method in RESTORED)
    assert found.shared == (method in ("direct-shared", "edit-friendly"))
    assert (found.null_embeddings is not None) == (method == "null-text")
    assert found.source_as_negative == (method == "negative-prompt")
    assert torch.equal(found.trajectory[-1], one.latent)
    if method in ENDS:
        assert torch.equal(found.trajectory, Options(ENDS[method])(one).trajectory)
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
        given = [normal(2, *SHAPE, seed=20 + n) for n in range(len(SIGMAS))]
        found = Options(method)(one, lambda x, n, given=given: given[n])
        first, second = (found.trajectory[n] - one.latent for n in (0, 1))
        assert close(first / SIGMAS[0], given[0])
        assert close(second / SIGMAS[1], given[method == "edit-friendly"])


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


def test_fewer_than_no_iterations():
    with pytest.raises(ValueError, match="0 or more fixed-point iterations, got -1"):
        Options("ddim", iterations=-1)(task())


# ------------------------------------------------- an edited row beside a source that is restored


def sampled(of, found, edited, ancestral=0.0):
    """The last latents of source and edited rows, by a sampler that shares its noise.

    `ancestral` is the part of the next level's variance that is drawn anew, 0 Euler's method.
    Before each step, and at the end, what is restored is restored, as a host's sampler has it.
    """
    swap = WordSwap("cat", "dog")
    controller, rows = plan("a cat", [(swap,)], reader()), Rows(len(of.latent), 1)
    blending = Blending(controller, rows, [1.0], of.latent.shape[-2:], of.sigmas, found)
    texts = Embedding(torch.cat([of.source.tokens, edited.tokens]))
    nulls = Embedding(rows.of_sources(of.negative.tokens))
    x = rows.of_sources(found.trajectory[0])
    for n, (sigma, sigma_next) in enumerate(of.steps):
        blending.apply(x, sigma, lambda background, sigma: background)
        image = of.guide(x, sigma, seen(x, sigma, texts), seen(x, sigma, nulls), nulls)
        low = sigma_next * (1 - ancestral) ** 0.5
        up = (sigma_next**2 - low**2) ** 0.5
        x = image + (x - image) * low / sigma
        x = x + rows.of_sources(up * normal(*of.latent.shape, seed=40 + n))
    blending.apply(x, 0.0, lambda background, sigma: background, done=True)
    return x[rows.source_block], x[rows.block(0)]


@pytest.mark.parametrize("ancestral", [0.0, 0.75])
@pytest.mark.parametrize("method", ["edit-friendly", "direct-shared"])
def test_an_edit_that_changes_nothing_is_the_source_on_a_shared_path(method, ancestral):
    one = task()
    source, edited = sampled(one, Options(method)(one), one.source, ancestral)
    assert torch.equal(source, one.latent)
    assert close(edited, one.latent)


@pytest.mark.parametrize("method", ["direct", "noise"])
def test_beside_a_path_of_its_own_the_edited_row_runs_free(method):
    one = task()
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
