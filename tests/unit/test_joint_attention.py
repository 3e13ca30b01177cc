"""Edits of joint attention against maps made in the open."""

import pytest
import torch
from joint_oracle import joint_output, logits
from oracle import HEADS, explicit_maps, output_of, split_heads

from p2p_core.attention import RowEdit
from p2p_core.edits import ALIGNED, SHARED, MapEdit
from p2p_core.joint_attention import JointEdit, Layout, own_attention

TEXT, IMAGE, WIDTH, ROWS = 5, 7, 4, 4
LAYOUTS = {
    "text first": (Layout(slice(0, 5), slice(5, 12), HEADS), 12),
    "image first": (Layout(slice(7, 12), slice(0, 7), HEADS), 12),
    "registers and a reference": (Layout(slice(2, 7), slice(7, 14), HEADS), 17),
}

CPU = torch.device("cpu")


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def map_edit(seed, factors=True, inject=True, keep=True):
    numbers = [random(TEXT, TEXT, seed=seed), *random(2, TEXT, seed=seed + 1)]
    wanted = (inject, keep, factors)
    none = (torch.zeros(TEXT, TEXT).double(), torch.zeros(TEXT).double(), torch.ones(TEXT).double())
    return MapEdit(*(n.abs() if w else o for n, o, w in zip(numbers, none, wanted, strict=True)))


def row_edit(row, source, pair, injected, aligned, renormalised=None):
    reaches = frozenset({None}) if injected else frozenset()
    return RowEdit(row, source, pair, reaches, ALIGNED if aligned else SHARED, renormalised)


def attending(mask=None):
    """Plain attention, with a mask that depends on the row, the query and the key."""

    def attention(q, k, v, rows, queries):
        def joined(x):
            return x if x.ndim == 3 else x.transpose(1, 2).flatten(2)

        maps = logits(joined(q), joined(k))
        if mask is not None:
            maps = maps + mask[list(rows)][:, None, queries]
        return output_of(maps.softmax(-1), joined(v))

    return attention


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("renormalised", [False, True])
def test_edited_rows_are_their_definition(name, masked, apart, renormalised):
    layout, length = LAYOUTS[name]
    q, k, v = (random(ROWS, length, HEADS * WIDTH, seed=seed) for seed in (1, 2, 3))
    mask = random(ROWS, length, length, seed=4) if masked else None
    for seed, (aligned, injected, factors, inject, keep) in enumerate(
        [
            (False, True, False, False, True),
            (False, True, True, False, True),
            (False, False, True, False, True),
            (True, True, False, True, False),
            (True, True, True, True, True),
            (True, False, False, True, True),
            (True, False, True, True, False),
        ]
    ):
        edits = [
            row_edit(1, 0, map_edit(seed, factors, inject, keep), injected, aligned, renormalised),
            row_edit(3, 2, map_edit(seed + 50), True, not aligned, renormalised),
        ]
        edit = JointEdit.of(edits, ROWS, CPU)
        assert edit is not None
        given = [split_heads(x) if apart else x for x in (q, k, v)]
        ours = edit.attend(attending(mask), *given, layout)
        expected = joint_output(q, k, v, edits, layout.text, layout.image, mask=mask)
        assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("aligned", [False, True])
def test_an_edit_that_changes_nothing_is_none(aligned):
    untouched = MapEdit.untouched(TEXT, TEXT)
    assert JointEdit.of([row_edit(1, 0, untouched, False, aligned)], 2, CPU) is None


def test_a_factor_is_a_logarithm_added_before_the_softmax():
    """The identity that renormalising rests on, at factors from nothing to much."""
    layout, length = LAYOUTS["text first"]
    q, k, v = (random(2, length, HEADS * WIDTH, seed=seed) for seed in (1, 2, 3))
    factors = torch.tensor([1.0, 1e-300, 0.3, 4.0, 1.0], dtype=torch.float64)
    pair = MapEdit.untouched(TEXT, TEXT).equalized(factors)
    edit = JointEdit.of([row_edit(1, 0, pair, False, False)], 2, CPU)
    assert edit is not None
    ours = edit.attend(attending(), q, k, v, layout)
    bias = torch.zeros(length, length, dtype=torch.float64)
    bias[layout.image, layout.text] = factors.log()
    expected = output_of((logits(q[1:], k[1:]) + bias).softmax(-1), v[1:])
    assert (ours[1:] - expected).abs().max() <= 1e-12 * expected.abs().max()
    plain = output_of(explicit_maps(q[:1], k[:1]), v[:1])
    assert (ours[:1] - plain).abs().max() <= 1e-14


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_the_image_looks_at_itself_under_the_edit(aligned, apart):
    """Maps are sharpened by what edited rows take, which is their source's where it is injected."""
    layout, length = LAYOUTS["registers and a reference"]
    q, k = (random(ROWS, length, HEADS * WIDTH, seed=seed) for seed in (1, 2))
    edits = [
        row_edit(1, 0, map_edit(5, factors=False), True, aligned),
        row_edit(3, 2, map_edit(9), False, aligned),
    ]
    edit = JointEdit.of(edits, ROWS, CPU)
    given = [split_heads(x) if apart else x for x in (q, k)]
    maps = random(2, 3, IMAGE, seed=3).abs()

    def attention(q, k, v):
        return attending()(q, k, v, None, None)

    own = own_attention(attention, edit, layout, *given)
    ours = own.sharpened(maps, slice(1, 3), 2)
    look = explicit_maps(q[:, layout.image], k[:, layout.image]).mean(1)
    look[1] = look[0]
    expected = look[1:3] @ look[1:3] @ maps.mT
    assert (ours.mT - expected).abs().max() <= 1e-12


def test_structure_alone_takes_no_more_attention():
    layout, length = LAYOUTS["text first"]
    q, k, v = (random(2, length, HEADS * WIDTH, seed=seed) for seed in (1, 2, 3))
    pair = MapEdit.untouched(TEXT, TEXT)
    edit = JointEdit.of([row_edit(1, 0, pair, True, False)], 2, CPU)
    assert edit is not None
    asked = []

    def counted(q, *args):
        asked.append(q.shape[0] * q.shape[1])
        return attending()(q, *args)

    edit.attend(counted, q, k, v, layout)
    assert sum(asked) == 2 * length
