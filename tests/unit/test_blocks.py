"""Windows over a transformer's blocks."""

import pytest

from p2p_core.blocks import Blocks

FLUX = ["double"] * 19 + ["single"] * 38


@pytest.mark.parametrize(
    ("text", "kinds", "expected"),
    [
        ("all", FLUX, range(57)),
        ("double", FLUX, range(19)),
        ("Single", FLUX, range(19, 57)),
        ("first 2/3", FLUX, range(38)),
        ("first 0.2", ["block"] * 30, range(6)),
        ("last 1/2", ["block"] * 3, range(1, 3)),
        ("middle 1/3", ["block"] * 60, range(20, 40)),
        ("first 1/100", ["block"] * 3, range(1)),
        ("20-37", FLUX, range(20, 38)),
        ("3", FLUX, [3]),
        ("0-1, 5, single", FLUX, [0, 1, 5, *range(19, 57)]),
    ],
)
def test_blocks_by_their_place(text, kinds, expected):
    assert Blocks(text).of(kinds) == set(expected)


@pytest.mark.parametrize("text", ["", "some", "first", "first 3/2", "first 0", "5-3", "-1", "1/0"])
def test_what_names_no_blocks_is_refused(text):
    with pytest.raises(ValueError, match="Expected blocks such as"):
        Blocks(text)


@pytest.mark.parametrize("text", ["20-37", "30", "double, single"])
def test_blocks_that_a_model_lacks_are_refused(text):
    with pytest.raises(ValueError, match=r"got '.*' of 30 blocks \(30 block\)"):
        Blocks(text).of(["block"] * 30)
