"""Windows over progress, and progress from the noise level alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_core.edits import SelfInjection
from p2p_core.schedules import Window, progress

SIGMAS = [14.6, 7.0, 3.0, 1.0, 0.3, 0.0]


@pytest.mark.parametrize(
    ("end", "steps", "active"),
    [(0.8, 50, 40), (0.4, 50, 20), (0.0, 50, 0), (1.0, 50, 50), (0.3, 10, 3)],
)
def test_windows_cover_the_steps_that_the_reference_covers(end, steps, active):
    """REFERENCE: int(frac · steps) steps, so 0.8 of 50 is 40."""
    sigmas = [math.exp(3 - 6 * i / steps) for i in range(steps)] + [0.0]
    window = Window(0.0, end)
    assert sum(window.weight(progress(sigma, sigmas)) for sigma in sigmas[:-1]) == active


def test_progress_on_the_grid_counts_steps():
    assert [progress(s, SIGMAS) for s in SIGMAS] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


@given(st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_progress_rises_as_noise_falls(a, b):
    low, high = sorted((a, b))
    assert 0 <= progress(high, SIGMAS) <= progress(low, SIGMAS) <= 1


@given(st.floats(0.01, 1000.0), st.floats(-1e-6, 1e-6))
def test_a_level_that_went_through_float32_is_still_its_step(top, error):
    """Samplers that work in log σ give the first level back a rounding away from itself."""
    assert progress(top * (1 + error), [top, top / 2, 0.0]) == pytest.approx(0.0, abs=1e-5)
    assert progress(top / 2 * (1 + error), [top, top / 2, 0.0]) == pytest.approx(0.5, abs=1e-5)


def test_between_levels_progress_is_between_theirs():
    assert progress(math.sqrt(7.0 * 3.0), SIGMAS) == pytest.approx(0.3)
    assert progress(0.15, SIGMAS) == pytest.approx(0.9)


@pytest.mark.parametrize("sigmas", [[], [1.0], [1.0, 2.0]])
def test_schedules_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(ValueError, match="two falling noise levels"):
        progress(1.0, sigmas)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-0.1, 0.5, "within 0 and 1, got -0.1 to 0.5"),
        (0, 1.5, "got 0 to 1.5"),
        (0.6, 0.4, "Swap the two ends"),
    ],
)
def test_bad_windows_are_refused(start, end, message):
    with pytest.raises(ValueError, match=message):
        Window(start, end)


@pytest.mark.parametrize("reach", [0.0, -1.0, 1.1, float("nan")])
def test_bad_reach_is_refused(reach):
    with pytest.raises(ValueError, match="self-attention reach above 0"):
        SelfInjection(Window(), reach)


def test_nan_window_is_refused():
    with pytest.raises(ValueError, match="within 0 and 1"):
        Window(float("nan"), 1.0)


def test_a_faded_window_lets_go_before_its_end_and_rises_after_a_late_start():
    late = Window(0.2, 0.8, fade=0.2)
    weights = [late.weight(p) for p in (0.1, 0.2, 0.3, 0.5, 0.7, 0.79, 0.8)]
    assert weights == pytest.approx([0, 0, 0.5, 1, 0.5, 0.05, 0])
    assert Window(0, 1, fade=1).weight(0.25) == pytest.approx(0.75)
    assert Window(0, 0.5, fade=0.1).weight(0.0) == 1.0
    with pytest.raises(ValueError, match=r"a fade within 0 and 1, got 1\.5"):
        Window(0, 1, fade=1.5)
