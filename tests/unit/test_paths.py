"""Where a known source is at each evaluation, and which rows then need not run."""

from __future__ import annotations

import pytest
import torch
from text_tokenizers import reader

from p2p_core.calls import Held
from p2p_core.controller import Rows, plan
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.inversion.path import Path
from p2p_core.inversion.task import Found
from p2p_core.schedules import Schedule, Window

SIGMAS = (4.0, 2.0, 0.0)
HEUN = (4.0, 2.0, 2.0, 0.0)
"""What Heun's method evaluates: the end of a step, and then it as a beginning."""


def numbered(levels):
    return torch.arange(len(levels)).float().reshape(-1, 1, 1, 1, 1) + 1


def of_evaluations():
    return Path(Found(numbered(HEUN), restore_source=True, levels=HEUN), SIGMAS)


def test_a_schedules_levels_are_found_by_their_noise():
    path = Path(Found(numbered(SIGMAS), restore_source=True), SIGMAS)
    assert [float(path.at(sigma)) for sigma in (4.0, 2.001, 2.0, 0.0)] == [1, 2, 2, 3]
    assert float(path.finished(0.0)) == 3


def test_evaluations_are_found_by_their_order():
    path = of_evaluations()
    path.start(torch.full((1, 1, 1, 1), 1.0), 4.0)
    assert [float(path.at(sigma)) for sigma in (4.0, 2.0, 2.0)] == [1, 2, 3]
    assert path.followed
    assert float(path.finished(2.0)) == 3
    assert path.finished(3.0) is None


def test_a_part_begins_where_a_step_does():
    path = of_evaluations()
    path.start(torch.full((1, 1, 1, 1), 3.0), 2.0)
    assert float(path.at(2.0)) == 3


def test_a_run_that_begins_elsewhere_is_refused():
    for x, sigma in ((1.1, 4.0), (1.0, 3.0)):
        with pytest.raises(ValueError, match="Use the seed, latent and schedule of P2P Sample"):
            of_evaluations().start(torch.full((1, 1, 1, 1), x), sigma)


def test_a_sampler_that_leaves_the_path_does_not_come_back():
    path = of_evaluations()
    path.start(torch.full((1, 1, 1, 1), 1.0), 4.0)
    assert path.at(4.0) is not None
    assert path.at(3.0) is None
    assert not path.followed
    assert path.at(2.0) is None
    assert path.finished(0.0) is None


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("edits", [1, 2])
@pytest.mark.parametrize("needs", [(True, False), (False, False), (False, True, False)])
def test_rows_that_run_come_back_to_their_places(sources, edits, needs):
    rows = Rows(sources, edits)
    held = Held.needed(rows, needs)
    call = torch.arange(len(needs) * rows.total)
    ran = held.cut(call)
    assert len(ran) == len(call) - needs.count(False) * sources
    filled = held.filled(ran, torch.full((sources,), -1)).reshape(len(needs), rows.total)
    edited = call.reshape(len(needs), rows.total)[:, sources:]
    assert (filled[:, :sources] == -1).all()
    assert torch.equal(filled[:, sources:], edited)
    assert len(held.blocks(needs)) * sources == len(ran)


@pytest.mark.parametrize("here", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_a_source_is_needed_where_an_edit_looks_at_it(here):
    """Where it is not, nothing of its attention is in any row: neither words nor pixels."""
    early = Schedule(Window(0, 0.6), (("dog", Window(0, 0.2)),))
    short = {"self_injection": SelfInjection(Window(0, 0.4))}
    for chain in (
        (WordSwap("cat", "dog", schedule=early, **short),),
        (Refine("a big cat sits", **short), Reweight((("big", 2.0),))),
        (Reweight((("cat", 2.0),), **short),),
        (WordSwap("cat", "dog", schedule=Schedule(Window(0.8, 1.0)), **short),),
    ):
        controller = plan("a cat sits", [chain], reader())
        (now,) = controller.at(here, controller.length)
        looked_at = bool(now.map_edit.inject.any()) or bool(now.self_reaches) or now.source_vector
        assert controller.needs_source(here) == looked_at
