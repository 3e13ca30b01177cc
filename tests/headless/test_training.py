"""Training of the demo models: what its parts promise, and that a stopped run goes on as it was."""

import argparse

import pytest
import torch
from torch import nn

from p2p_core.demo.architecture import WEIGHTS
from p2p_core.demo.networks import Captions, load_checkpoint
from p2p_core.demo.training import flow, generator
from p2p_core.demo.training.loop import ANNEALING, END, WARM_UP, plateau
from p2p_core.demo.training.world import World


def test_the_plateau_knows_nothing_of_the_end_until_it_anneals():
    for step in (0, WARM_UP // 2, WARM_UP, 3000):
        assert plateau(step, 4000) == plateau(step, 12_000)
    assert plateau(WARM_UP, 4000) == 1
    assert plateau(int(4000 * (1 - ANNEALING / 2)), 4000) == pytest.approx(0.5)
    assert plateau(3999, 4000) == END


def test_noise_levels_are_log_normal_and_reach_the_ends():
    level = flow.levels(8000).cpu()
    even, normal = level[:1000], level[1000:]
    assert even.min() < 2e-3
    assert even.max() > 1 - 2e-3
    # Where a normal variable is below −1, 0 and 1; strata of 1/7000 leave no other error.
    for z, share in ((-1.0, 0.158655), (0.0, 0.5), (1.0, 0.841345)):
        below = (normal < torch.tensor(z).sigmoid()).float().mean()
        assert abs(below - share) < 2 / 7000


def test_euler_is_exact_where_the_velocity_is():
    """Towards one picture with words, another without, guidance goes on along their difference."""
    wanted, other = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def model(x, level, ids):
        picture = torch.where(ids[:, :1, None, None] > 0, wanted, other)
        return (x - picture) / level[:, None, None, None]

    ids, empty = torch.ones(3, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long)
    out = flow.sample_latents(model, ids, empty, guidance=1.0)
    assert torch.allclose(out, wanted.expand_as(out), atol=1e-5)
    guided = flow.sample_latents(model, ids, empty, guidance=3.0)
    assert torch.allclose(guided, (other + 3 * (wanted - other)).expand_as(out), atol=1e-4)


class _Toy(nn.Module):
    """Predicts, and looks at words, well enough to be trained on."""

    def __init__(self):
        super().__init__()
        self.predict = nn.Conv2d(4, 4, 3, padding=1)
        self.look = nn.Parameter(torch.randn(256, 28, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, t, ids, which):
        self.shapes = x.shape, t.shape, ids.shape, which.shape
        return self.predict(x)

    def word_maps(self):
        return [self.look.softmax(-1).expand(self.shapes[0][0], -1, -1)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    captions = Captions()
    autoencoder, _ = load_checkpoint(WEIGHTS, captions)
    out = tmp_path_factory.mktemp("world")
    return World(autoencoder, captions, out, count=24, seed=0, normalised=True)


def test_a_batch_is_the_same_whenever_it_is_drawn(world):
    batch, again = world.draw(3, 8), world.draw(3, 8)
    for name, value in vars(batch).items():
        assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(batch.latents, world.draw(4, 8).latents)
    assert batch.latents.shape == (8, 4, 16, 16)
    assert batch.regions.shape == (8, 2, 16, 16)
    assert batch.ids.shape == (3, 8, 77)
    assert batch.which.shape == batch.described.shape == (8, 77)
    # Words that say what an object is stand in the few tokens that the second model reads.
    assert (batch.described[:, 28:] == -1).all()
    assert 0.3 < batch.latents.std() < 0.7  # as a checkpoint's autoencoder leaves them


def test_a_stopped_run_goes_on_as_it_was(world, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "SHEET_PROMPTS", generator.SHEET_PROMPTS[:2])
    exported = {}

    def train(name, *goals):
        (tmp_path / name).mkdir()
        for steps in goals:
            torch.manual_seed(0)
            task = generator.Task(
                name="toy",
                model=_Toy(),
                noised=flow.noised,
                sample=lambda model, ids, empty: torch.zeros(len(ids), 4, 16, 16),
                export=lambda model: exported.update({name: model.state_dict()}),
                schedule=plateau,
            )
            options = argparse.Namespace(generator_steps=steps, peak=1e-2, batch=4)
            generator.train_generator(task, world, tmp_path / name, options)
        return torch.load(tmp_path / name / "toy.pt", weights_only=True)

    whole, stopped = train("whole", 6), train("stopped", 2, 6)
    assert whole["step"] == stopped["step"] == 6
    for name, value in whole["model"].items():
        assert torch.equal(value, stopped["model"][name]), name
    for name, value in exported["whole"].items():
        assert torch.equal(value, exported["stopped"][name]), name
        assert not torch.equal(value, whole["model"][name])  # it is the average
    assert (tmp_path / "whole" / "toy.png").exists()
