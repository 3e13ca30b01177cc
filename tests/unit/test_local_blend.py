"""A mask of one's own, alone and joined to the words' mask."""

import pytest
import torch

from p2p_core.local_blend import LocalBlend, otsu, smoothed

SIZE = torch.Size((4, 4))
EDGE = torch.tensor([1.0, 0, 0, 0]).expand(1, 4, 4)
LEFT = torch.tensor([1.0, 1, 0, 0]).expand(1, 4, 4)
TOP = LEFT.mT
"""A word's map on the left edge, the mask that pooling makes of it, and a mask that crosses it."""


def mask(user=None, images=1, size=SIZE, **options):
    edited, subtract = (m.expand(images, 4, 4) for m in (EDGE, LEFT))
    blend = LocalBlend(user_mask=user, **options)
    taken = [subtract] if blend.subtract_words else []
    return blend.mask(torch.zeros_like(edited), edited, taken, size)


def test_a_mask_joins_the_words_mask_where_both_or_either_are():
    words = mask(edited_words=("cat",))
    assert torch.equal(words, LEFT)
    both = mask(TOP, edited_words=("cat",))
    assert torch.equal(both, LEFT * TOP)
    assert torch.equal(both, mask(TOP, edited_words=("cat",), join="intersection"))
    assert torch.equal(mask(TOP, edited_words=("cat",), join="union"), torch.maximum(LEFT, TOP))


def test_a_mask_between_0_and_1_blends_by_parts():
    grey = torch.full((1, 4, 4), 0.25)
    assert torch.equal(mask(grey, edited_words=("cat",)), 0.25 * LEFT)
    either = mask(grey, edited_words=("cat",), join="union")
    assert torch.equal(either, torch.maximum(LEFT, grey))


@pytest.mark.parametrize("join", ["union", "intersection"])
def test_a_mask_without_words_is_the_mask(join):
    assert torch.equal(mask(TOP, join=join), TOP)


def test_a_mask_of_any_size_is_laid_over_the_whole_latent():
    large = TOP.repeat_interleave(16, 1).repeat_interleave(24, 2)
    assert torch.equal(mask(large), TOP)
    assert torch.equal(mask(large[0]), TOP)  # without an axis for images
    assert torch.equal(mask(large[:, None]), TOP)  # with one for channels
    assert torch.equal(mask(TOP.bool()), TOP)
    wide = mask(torch.ones(1, 3, 5), size=torch.Size((6, 10)))
    assert torch.equal(wide, torch.ones(1, 6, 10))


def test_one_mask_serves_all_images_and_several_one_each():
    assert torch.equal(mask(TOP, images=2), torch.cat([TOP, TOP]))
    each = torch.cat([TOP, 1 - TOP])
    assert torch.equal(mask(each, images=2), each)


def test_words_are_taken_out_of_a_mask_of_ones_own():
    """Their maps are needed then, though no word makes the mask."""
    blend = LocalBlend(user_mask=TOP, subtract_words=("hat",))
    assert blend.looks
    assert not LocalBlend(user_mask=TOP).looks
    assert torch.equal(mask(TOP, subtract_words=("hat",)), TOP * (1 - LEFT))


def test_a_grown_mask_leaves_out_what_is_subtracted():
    assert torch.equal(mask(edited_words=("cat",), grow=1).sum(), torch.tensor(12.0))
    assert not mask(edited_words=("cat",), grow=1, subtract_words=("hat",))[..., :2].any()


def test_source_and_edited_words_are_each_seen_in_their_own_image():
    blend = LocalBlend(source_words=("cat",), edited_words=("dog",))
    here, there = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    here[0, 1, 1], there[0, 6, 6] = 5.0, 0.01  # each is measured by its own maximum
    found = blend.mask(here, there, [], torch.Size((8, 8)))
    expected = torch.zeros(1, 8, 8)
    expected[0, :3, :3] = expected[0, 5:, 5:] = 1  # pooled by one cell around
    assert torch.equal(found, expected)
    only = LocalBlend(edited_words=("dog",)).mask(here, there, [], torch.Size((8, 8)))
    assert only[0, :3, :3].sum() == 0


def test_softness_is_the_width_of_the_ramp_around_the_threshold():
    ramp = torch.linspace(0, 1, 11).expand(1, 11, 11)
    blend = LocalBlend(user_mask=torch.ones(1, 1, 1), subtract_words=("hat",), threshold=0.5)
    size = torch.Size((11, 11))
    soft = LocalBlend(**{**vars(blend), "softness": 0.4})
    kept = 1 - soft.mask(ramp, ramp, [ramp], size)[0, 0]
    expected = torch.tensor([0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert torch.allclose(kept, expected, atol=1e-6)
    hard = 1 - blend.mask(ramp, ramp, [ramp], size)[0, 0]
    assert hard.tolist() == [0] * 6 + [1] * 5  # above the threshold, not at it


def test_otsus_threshold_has_the_greatest_variance_between_the_kinds():
    """Held to the definition, tried at every threshold there is."""
    maps = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0)) ** 3
    for cells, threshold in zip(maps.flatten(1), otsu(maps).flatten(), strict=True):

        def between(t, cells=cells):
            low, high = cells[cells <= t].double(), cells[cells > t].double()
            return len(low) * len(high) * (low.mean() - high.mean()) ** 2

        best = max(cells.sort().values[:-1], key=between)
        assert torch.equal(cells > threshold, cells > best)


def test_otsu_finds_each_images_own_threshold():
    """A word that all of the picture looks at a little, and one that nothing else looks at."""
    maps = torch.full((2, 8, 8), 0.4)
    maps[1] = 0.02
    maps[0, :2, :2], maps[1, 5:, 5:] = 1.0, 0.2
    size = torch.Size((8, 8))
    blend = LocalBlend(edited_words=("dog",), threshold=None)
    found = blend.mask(maps, maps, [], size)
    expected = torch.zeros(2, 8, 8)
    expected[0, :2, :2] = expected[1, 5:, 5:] = 1  # not widened by a cell
    assert torch.equal(found, expected)
    fixed = LocalBlend(edited_words=("dog",)).mask(maps, maps, [], size)
    assert fixed[0].all()
    soft = LocalBlend(edited_words=("dog",), threshold=None, softness=0.1)
    assert torch.equal(soft.mask(maps, maps, [], size), expected)


def test_smoothing_is_a_gaussian_of_so_many_cells():
    maps = torch.zeros(1, 21, 21, dtype=torch.float64)
    maps[0, 10, 10] = 1
    blurred = smoothed(maps, 1.5)
    y, x = torch.meshgrid(*[torch.arange(-10.0, 11).double()] * 2, indexing="ij")
    expected = (-(y**2 + x**2) / (2 * 1.5**2)).exp()
    expected[(y.abs() > 5) | (x.abs() > 5)] = 0
    assert torch.allclose(blurred[0], expected / expected.sum(), atol=1e-15)
    flat = torch.full((2, 6, 4), 0.7)
    assert torch.allclose(smoothed(flat, 3.0), flat)
    assert smoothed(maps, 0.0) is maps


def test_frames_are_smoothed_each_by_itself():
    maps = torch.rand(2, 12, 5, generator=torch.Generator().manual_seed(0))
    together = smoothed(maps, 1.0, frames=3)
    for frame in range(3):
        rows = slice(4 * frame, 4 * frame + 4)
        assert torch.allclose(together[:, rows], smoothed(maps[:, rows], 1.0))


def test_smoothing_joins_a_mask_in_pieces_and_drops_a_speck():
    maps = torch.zeros(1, 16, 16)
    maps[0, 4:12, 4:12:4] = 1.0
    maps[0, 14, 14] = 1.0
    pieces = LocalBlend(edited_words=("dog",)).mask(maps, maps, [], torch.Size((16, 16)))
    joined = LocalBlend(edited_words=("dog",), smoothing=1.5)
    found = joined.mask(maps, maps, [], torch.Size((16, 16)))
    assert not pieces[0, 6, 6:7].any()
    assert found[0, 5:11, 4:9].all()
    assert not found[0, 13:, 13:].any()
    with pytest.raises(ValueError, match="Expected smoothing by 0 to 16 cells"):
        LocalBlend(smoothing=-1)
