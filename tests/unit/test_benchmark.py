"""The benchmark's cases and measures, on pictures whose answers are known."""

import numpy as np
import pytest

from p2p_core.demo.scenes import SIZE, render
from p2p_core.lab.shapes.cases import KINDS, cases
from p2p_core.lab.shapes.measures import ssim, structure_distance

SOME = tuple(cases(5 * len(KINDS), seed=4))


def test_every_kind_comes_as_often():
    assert [case.kind for case in SOME] == list(KINDS) * 5
    assert [case.prompt for case in cases(3, seed=4)] == [case.prompt for case in SOME[:3]]


@pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.kind}: {case.edited_prompt}")
def test_the_true_answer_succeeds_and_the_given_picture_does_not(case):
    assert case.succeeds(render(case.edited))
    assert not case.succeeds(render(case.scene))
    assert case.prompt != case.edited_prompt


@pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.kind}: {case.edited_prompt}")
def test_what_is_kept_is_the_same_in_both(case):
    before, after = render(case.scene).astype(int), render(case.edited)
    assert np.abs(before - after)[case.kept].max(initial=0) <= 8
    assert (np.abs(before - after) > 8).any()
    if case.kind != "background":
        assert 0.3 < case.kept.mean() < 1
    before, after = case.words
    assert before in case.prompt.split()
    assert after in case.edited_prompt.split()


def test_measures_of_the_same_and_of_other_pictures():
    everywhere = np.ones((SIZE, SIZE), bool)
    a, b, c = (render(case.scene) for case in SOME[:3])
    assert ssim(a, a, everywhere) == pytest.approx(1)
    assert ssim(a, b, everywhere) < 0.9
    assert structure_distance(a, a) == 0
    shade = (a * 0.8).astype(np.uint8)
    assert structure_distance(a, shade) < 0.02 < structure_distance(a, c)
