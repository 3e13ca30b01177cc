"""Null-text optimisation on a toy network, against the authors' loop written out."""

import pytest
import torch

from p2p_core.inversion.gradients import modifying, recomputed
from p2p_core.inversion.null_text import REFERENCE, Schedule, gradient, invert
from p2p_core.inversion.task import DIFFUSION, Embedding, Task, c_in, classifier_free, replay

SIGMAS = (8.0, 4.0, 2.0, 1.0, 0.0)
CFG = 3.0


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Toy:
    """x shrunk, and the text mixed in; counts what it is asked for, and in which places."""

    def __init__(self):
        self.mix, self.places = normal(3, 2 * 4 * 4), []

    def __call__(self, x, sigma, *texts):
        self.places.append(tuple(text is not None for text in texts))
        return [
            x / (1 + sigma**2) + torch.tanh(text.tokens.mean(1) @ self.mix).view(-1, 2, 4, 4)
            for text in texts
            if text
        ]


def task(images=1, guide=None, watch=lambda progress: None):
    texts = [Embedding(normal(images, 5, 3) * scale) for scale in (1.0, 0.3)]
    guide = guide or classifier_free(CFG)
    return Task(Toy(), normal(images, 2, 4, 4), SIGMAS, *texts, guide, DIFFUSION, watch)


def plain(source, against):
    return against + CFG * (source - against)


def rescaled(source, against):
    """As Lin et al. 2024: no linear function of the two."""
    image = plain(source, against)
    return image * (source.std() / image.std())


def authors(task, pivot, schedule, guided=plain):
    """Mokady et al. 2023, their code's `null_optimization`: the step, then a look at the loss.

    Returns the null texts, how many steps were taken, and where sampling ends.
    """
    x, null, found, steps = pivot[0], task.negative.tokens, [], 0
    for n, (sigma, sigma_next) in enumerate(task.steps):
        null = null.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=schedule.learning_rate * (1 - n / 100))
        for _ in range(schedule.inner_steps):
            source, against = task.denoise(x, sigma, task.source, Embedding(null))
            end = x + (sigma_next - sigma) * (x - guided(source, against)) / sigma
            loss = ((end - pivot[n + 1]) * c_in(sigma_next)).square().mean()
            (null.grad,) = torch.autograd.grad(loss, null)
            adam.step()
            steps += 1
            if loss < schedule.early_stop * (1 + 2 * n):
                break
        null = null.detach()
        found.append(null)
        source, against = task.denoise(x, sigma, task.source, Embedding(null))
        x = x + (sigma_next - sigma) * (x - guided(source, against)) / sigma
    return torch.stack(found), steps, x


@pytest.mark.parametrize("early_stop", [1e-9, 2e-2, 1e9])
def test_null_texts_as_the_authors_find_them(early_stop):
    """A step good enough at once is taken nevertheless, and is the last."""
    schedule = Schedule(10, 1e-2, early_stop)
    losses = []
    one = task(watch=lambda progress: losses.append(progress.loss))
    found = invert(one, schedule)
    theirs, steps, _ = authors(one, found.trajectory, schedule)
    assert (found.null_embeddings - theirs).abs().max() <= 1e-9
    assert len([loss for loss in losses if loss is not None]) == steps
    assert steps == len(SIGMAS) - 1 if early_stop == 1e9 else steps > len(SIGMAS) - 1


def test_images_are_optimised_as_each_by_itself():
    schedule = Schedule(10, 1e-2, 2e-2)
    both = task(2)
    found = invert(both, schedule)
    for n in range(2):
        alone = Task(
            both.denoise,
            both.latent[n : n + 1],
            SIGMAS,
            *(Embedding(text.tokens[n : n + 1]) for text in (both.source, both.negative)),
            both.guide,
            DIFFUSION,
        )
        assert (
            invert(alone, schedule).null_embeddings[:, 0] - found.null_embeddings[:, n]
        ).abs().max() <= 1e-9


def test_texts_stand_in_their_own_places():
    """The source's is the first, the null text's the second: patches tell them apart so."""
    one = task()
    replay(one, invert(one, Schedule(2)))
    assert set(one.denoise.places) == {(True,), (False, True), (True, True)}


def test_null_texts_of_another_guidance():
    """What guidance makes of the predictions is what is optimised, and what comes out."""
    one = task(guide=lambda x, sigma, source, against, null: rescaled(source, against))
    schedule = Schedule(10, 3e-2, 0.0)
    found = invert(one, schedule)
    theirs, _, end = authors(one, found.trajectory, schedule, rescaled)
    assert (found.null_embeddings - theirs).abs().max() <= 1e-9
    assert (replay(one, found) - end).abs().max() <= 1e-9
    assert (replay(task(), found) - end).abs().max() > 1e-2


def test_guidance_without_a_null_text_leaves_it_as_it_was():
    one = task(guide=classifier_free(1.0))
    found = invert(one, Schedule(3))
    assert torch.equal(found.null_embeddings, one.negative.tokens.expand_as(found.null_embeddings))


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(ValueError, match=r"finite loss .*nan.* at step 1\. Take a learning rate"):
        invert(task(guide=lambda x, *rest: rest[2] * torch.nan), Schedule(3))


def test_the_schedule():
    assert [REFERENCE.rate(n, 50) for n in (0, 10)] == [1e-2, pytest.approx(9e-3)]
    assert all(REFERENCE.rate(n, 1000) > 0 for n in range(1000))
    for wrong in ({"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"early_stop": -1.0}):
        with pytest.raises(ValueError, match="positive learning rate"):
            Schedule(**wrong)


def block(x, context=None, options=None):
    """As a transformer block: it looks at its options, and draws."""
    return torch.tanh(x * options["scale"] + torch.rand(x.shape) * context.exp())


def test_a_block_is_recomputed_with_the_options_and_the_draws_that_it_had():
    """Though its caller has written the next block's into them since."""
    found = []
    for call in (block, lambda *args, **named: recomputed(block, *args, **named)):
        context, options, x = normal(4).requires_grad_(), {}, normal(3, 4)
        torch.manual_seed(0)
        for scale in (0.5, 2.0, 3.0):
            options["scale"] = scale
            x = call(x, context=context, options=options)
        found.append(torch.autograd.grad(x.sum(), context)[0])
    assert torch.equal(*found)


def in_place(x):
    """Changes what the exponential's gradient needs."""
    y = x.exp()
    return y.mul_(2) * y


def test_what_is_modified_in_place_is_no_silent_wrong_gradient():
    x = normal(4).requires_grad_()
    for call in (in_place, lambda x: recomputed(in_place, x)):
        with pytest.raises(ValueError, match="a patch on it, that changes tensors in place"):
            gradient(call(x[None]), x, torch.ones(1, 4, dtype=x.dtype))
    exact = 8 * (2 * x.detach()).exp()
    for call in (modifying(in_place), lambda x: recomputed(modifying(in_place), x)):
        assert torch.allclose(torch.autograd.grad(call(x).sum(), x)[0], exact, rtol=1e-12)


def test_a_patch_may_modify_what_it_gets():
    def patch(h):
        h[:2] = h[:2] * (h.mean() + 1)
        return h

    x = normal(4).requires_grad_()
    before = x.exp()
    (found,) = torch.autograd.grad(modifying(patch)(before).sum(), x)
    y = x.exp()
    (exact,) = torch.autograd.grad((y[:2] * (y.mean() + 1)).sum() + y[2:].sum(), x)
    assert torch.allclose(found, exact, rtol=1e-12)
    assert torch.equal(before, y)
