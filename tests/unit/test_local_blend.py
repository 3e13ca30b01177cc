"""A mask of one's own, alone and joined to the words' mask."""

import pytest
import torch

from p2p_core.local_blend import LocalBlend

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
