"""Values outside a mask against maps made in the open."""

import pytest
import torch
from joint_oracle import joint_output
from oracle import HEADS, attention, explicit_maps, output_of, split_heads

from p2p_core.attention import RowEdit, SelfEdit
from p2p_core.background import SourceValues
from p2p_core.controller import Rows
from p2p_core.edits import ALIGNED, SHARED, MapEdit
from p2p_core.joint_attention import JointEdit, Layout
from p2p_core.local_blend import BOTH, LATENTS, VALUES, LocalBlend

WIDTH, FRAMES, HEIGHT = 4, 2, 3
GRID = (FRAMES, HEIGHT, 4)
PIXELS = FRAMES * HEIGHT * 4
ROWS = Rows(sources=2, edits=2)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def masks(seed, soft=False):
    """One for each source, frames one below the other, at twice the layer's size."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(2, FRAMES * 2 * HEIGHT, 8, generator=generator)
    return found if soft else (found > 0.8).float()


def definition(v, given, start=0):
    """Pixel by pixel: own values where a cell of the mask is white, the source's elsewhere."""
    expected = v.clone()
    for branch, mask in given.items():
        for row, source in ROWS.pairs(branch):
            for pixel in range(PIXELS):
                frame, y, x = pixel // 12, pixel // 4 % 3, pixel % 4
                own = mask[row % 2].view(FRAMES, 6, 8)[frame, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                own = own.max()
                theirs = v[start + source, pixel]
                expected[start + row, pixel] = own * v[start + row, pixel] + (1 - own) * theirs
    return expected


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_outside_its_mask_every_edits_values_are_its_sources(soft, apart):
    """Of several edits and sources in a call that begins with other rows, videos too."""
    given = {0: masks(1, soft), 1: masks(2, soft)}
    v = random(2 + ROWS.total, PIXELS, HEADS * WIDTH)
    kept = SourceValues.of([(given, ROWS, 2)], 2 * HEIGHT)
    assert kept is not None
    ours = kept.within(split_heads(v) if apart else v, GRID)
    ours = ours.transpose(1, 2).flatten(2) if apart else ours
    expected = definition(v, given, start=2)
    assert (ours - expected).abs().max() <= 1e-15 * v.abs().max() * 4
    if not soft:
        assert torch.equal(ours, expected)
        assert not torch.equal(ours, v)
    again = SourceValues.of([({1: given[1]}, ROWS, 2)], 2 * HEIGHT)
    assert again is not None
    assert torch.equal(again.within(v, GRID)[:6], v[:6])


def test_masks_of_ones_leave_values_and_those_of_zeros_give_the_sources():
    v = random(ROWS.total, PIXELS, HEADS * WIDTH)
    ones = torch.ones(2, FRAMES * 2 * HEIGHT, 8)
    white = SourceValues.of([({0: ones, 1: ones}, ROWS, 0)], 2 * HEIGHT)
    black = SourceValues.of([({0: 0 * ones, 1: 0 * ones}, ROWS, 0)], 2 * HEIGHT)
    assert white is not None
    assert black is not None
    assert torch.equal(white.within(v, GRID), v)
    assert torch.equal(black.within(v, GRID), v[:2].repeat(3, 1, 1))
    assert SourceValues.of([({}, ROWS, 0)], 2 * HEIGHT) is None


def test_injected_self_attention_outside_the_mask_is_the_sources():
    """With a mask of zeros the whole layer is, to the last bit of the same sums."""
    q, k, v = (random(ROWS.total, PIXELS, HEADS * WIDTH, seed=seed) for seed in (1, 2, 3))
    given = {0: masks(1), 1: torch.zeros(2, FRAMES * 2 * HEIGHT, 8)}
    kept = SourceValues.of([(given, ROWS, 0)], 2 * HEIGHT)
    pairs = [pair for branch in (0, 1) for pair in ROWS.pairs(branch)]
    edit = SelfEdit.of([(*pair, torch.inf) for pair in pairs], ROWS.total, torch.device("cpu"))
    assert kept is not None
    assert edit is not None
    rows = edit.gather(PIXELS)
    ours = attention(q[rows], k[rows], kept.within(v, GRID))
    maps = explicit_maps(q, k)
    for row, source in pairs:
        maps[row] = maps[source]
    expected = output_of(maps, definition(v, given))
    assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert torch.equal(ours[4:], ours[:2])


@pytest.mark.parametrize("begin", [0, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_joint_attention_takes_the_images_values_and_keeps_the_texts(begin, aligned):
    text = slice(0, 5) if begin else slice(PIXELS, PIXELS + 5)
    layout = Layout(text, slice(begin, begin + PIXELS), HEADS)
    q, k, v = (random(ROWS.total, PIXELS + 5, HEADS * WIDTH, seed=seed) for seed in (1, 2, 3))
    given = {0: masks(1), 1: masks(2)}
    kept = SourceValues.of([(given, ROWS, 0)], 2 * HEIGHT)
    assert kept is not None
    pair = MapEdit(
        random(5, 5, seed=4).abs(), random(5, seed=5).abs(), random(5, seed=6).abs() + 0.1
    )
    edits = [
        RowEdit(row, source, pair, frozenset({None}), ALIGNED if aligned else SHARED)
        for branch in (0, 1)
        for row, source in ROWS.pairs(branch)
    ]
    edit = JointEdit.of(edits, ROWS.total, torch.device("cpu"))
    assert edit is not None

    def attend(q, k, v, rows, queries):
        return attention(q, k, v)

    ours = edit.attend(attend, q, k, kept.within(v, GRID, layout.image), layout)
    values = v.clone()
    values[:, layout.image] = definition(v[:, layout.image], given)
    expected = joint_output(q, k, values, edits, layout.text, layout.image)
    assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_values_are_the_sources_own():
    LocalBlend(background=torch.zeros(1, 4, 8, 8), keep_background=LATENTS)
    for keep in (VALUES, BOTH):
        with pytest.raises(ValueError, match=f"by latents where another .* got {keep}"):
            LocalBlend(background=torch.zeros(1, 4, 8, 8), keep_background=keep)
    with pytest.raises(ValueError, match="latents, values or both, got 'pixels'"):
        LocalBlend(keep_background="pixels")
