"""Noise for a batch is drawn as for its sources alone, and repeated for their edits."""

import threading

import numpy
import pytest
import torch
from torch.distributions import Laplace, StudentT

from p2p_core.noise import SharedNoise

SOURCES, EDITS, WIDTH = 2, 2, 5
ROWS = SOURCES * (1 + EDITS)


def generator():
    return torch.Generator().manual_seed(3)


DRAWS = {
    "sizes one by one": lambda n: torch.randn(n, 4, 3, 3, generator=generator()),
    "a size": lambda n: torch.rand((n, 4, 3, 3)),
    "a named size": lambda n: torch.randn(size=torch.Size((n, 4, 3, 3)), dtype=torch.float64),
    "between": lambda n: torch.randint(0, 10, (n, 4, 3, 3), generator=generator()),
    "mean and deviation": lambda n: torch.normal(mean=1.0, std=0.5, size=(n, 4, 3, 3)),
    "means": lambda n: torch.normal(torch.arange(4.0).view(1, 4, 1, 1).repeat(n, 1, 3, 3)),
    "like": lambda n: torch.randn_like(torch.zeros(n, 4, 3, 3), dtype=torch.float64),
    "like a view": lambda n: torch.randn_like(torch.zeros(n, 3, 3, 4).movedim(-1, 1)),
    "in place": lambda n: torch.empty(n, 4, 3, 3).normal_(generator=generator()),
    "another range": lambda n: torch.zeros(n, 4, 3, 3).uniform_(-1, 1),
    "into a tensor": lambda n: torch.randn((n, 4, 3, 3), out=torch.empty(n, 4, 3, 3)),
    "Laplace": lambda n: Laplace(torch.zeros(n, 4, 3, 3), 1.0).rsample(),
    "Student": lambda n: StudentT(torch.full((n, 4, 3, 3), 3.0)).rsample(),
    "texts": lambda n: torch.randn(n, 7, WIDTH),
    "pooled": lambda n: torch.empty(n, WIDTH).exponential_(),
    "two branches at once": lambda n: torch.randn_like(torch.zeros(2 * n, 7, WIDTH)),
    "two branches in place": lambda n: torch.empty(2 * n, 4, 3, 3).normal_(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_a_batchs_noise_is_its_sources(draw):
    torch.manual_seed(0)
    alone, after = draw(SOURCES), torch.randn(1)
    torch.manual_seed(0)
    with SharedNoise(ROWS, SOURCES, [WIDTH]):
        noise = draw(ROWS)
        assert torch.equal(torch.randn(1), after)
    blocks = alone.unflatten(0, (-1, SOURCES))
    expected = blocks.repeat(1, 1 + EDITS, *[1] * (blocks.ndim - 2)).flatten(0, 1)
    assert noise.dtype == alone.dtype
    assert torch.equal(noise, expected)


def test_a_tensor_that_is_filled_is_the_one_that_comes_back():
    with SharedNoise(ROWS, SOURCES):
        tensor, out = torch.zeros(2 * ROWS, 4, 3, 3), torch.zeros(ROWS, 4, 3, 3)
        assert tensor.normal_() is tensor
        assert torch.randn(out.shape, out=out) is out
    assert tensor[-1].any()
    assert torch.equal(out[-1], out[1])


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 3), (ROWS, 8, 8), (ROWS + 1, 4, 3, 3), (0, 2)])
def test_other_shapes_are_left_alone(shape):
    """Of as many channels, say, as there are rows."""
    torch.manual_seed(0)
    expected = torch.randn(shape)
    torch.manual_seed(0)
    with SharedNoise(ROWS, SOURCES, [WIDTH]):
        assert torch.equal(torch.randn(shape), expected)


def test_left_for_a_while_it_does_nothing():
    with SharedNoise(ROWS, SOURCES) as shared:
        with shared.left():
            assert own_noise()
        assert not own_noise()
        with torch.device("cpu"), shared.left():  # a mode of somebody else, which is not to be lost
            assert not own_noise()
        with pytest.raises(KeyError), shared.left():
            raise KeyError
        assert not own_noise()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(in_a_thread(shared)))
        thread.start()
        thread.join()
        assert seen == [True]
        assert not own_noise()
    assert own_noise()


def in_a_thread(shared):
    with shared.left():
        return own_noise()


def own_noise():
    noise = torch.randn(ROWS, 4, 3, 3)
    return not torch.equal(noise[:SOURCES], noise[SOURCES : 2 * SOURCES])


def test_numpys_noise():
    shape = (ROWS, 4, 3, 3)
    noise = numpy.random.default_rng(0).standard_normal(shape)
    with SharedNoise(ROWS, SOURCES):
        for take in (torch.asarray, torch.as_tensor, torch.tensor):
            with pytest.raises(ValueError, match="Expected noise that PyTorch draws"):
                take(noise)
        assert torch.tensor(noise[0]).shape == shape[1:]
        shared = numpy.tile(noise[:SOURCES], (1 + EDITS, 1, 1, 1))
        assert torch.equal(torch.asarray(shared), torch.from_numpy(shared))
