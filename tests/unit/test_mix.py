"""A swap by degree, against explicit maps."""

import pytest
import torch
from edited import SOURCE, agrees, edited_outputs, source_column, tokens
from oracle import output_of
from text_tokenizers import chunks_of_three, reader

from p2p_core.controller import plan
from p2p_core.edits import Reweight, WordSwap
from p2p_core.edits.mix import Mix

READERS = (None, reader(chunks_of_three))
"""A token a word, and several."""


@pytest.mark.parametrize("read", READERS)
def test_the_ends_are_the_source_and_a_word_swap(read):
    none, whole, swap = (
        plan(SOURCE, [chain], read or reader()).branches[0]
        for chain in (
            (Mix("cat", "tortoise", 0.0),),
            (Mix("cat", "tortoise", 1.0),),
            (WordSwap("cat", "tortoise"),),
        )
    )
    assert none.edited.text == SOURCE
    assert torch.equal(none.at(0).map_edit.inject, torch.eye(none.edited.length))
    assert whole.edited.text == swap.edited.text
    for progress in (0.0, 0.9):
        mixed, swapped = whole.at(progress).map_edit, swap.at(progress).map_edit
        assert torch.equal(mixed.inject, swapped.inject)
        assert torch.equal(mixed.keep, swapped.keep)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_attention_and_values_are_shared_between_old_and_new_word(progress, read):
    ours, maps, v, controller = edited_outputs(
        [(Mix("cat", "tortoise", 0.25),)], progress, read=read
    )
    assert controller.branches[0].edited.text.startswith("a fluffy cat tortoise sits")
    old, new = tokens(controller, "cat"), tokens(controller, "tortoise")
    expected = maps[1:].clone()
    if progress < 0.8:
        expected = maps[:1] @ controller.branches[0].mapper.double()
        source = maps[0][..., source_column(controller, "cat")].sum(-1, keepdim=True)
        expected[0][..., old] = 0.75 * source / len(old)
        expected[0][..., new] = 0.25 * source / len(new)
    else:
        expected[0][..., old] *= 0.75
        expected[0][..., new] *= 0.25
    agrees(ours, output_of(expected, v[1:]))


def test_it_chains_with_other_edits():
    chain = (Mix("cat", "dog", 0.5), WordSwap("grass", "snow"), Reweight((("dog", 2.0),)))
    branch = plan(SOURCE, [chain], reader()).branches[0]
    assert branch.edited.text == "a fluffy cat dog sits on the wet snow"
    now = branch.at(0.0).map_edit.multiplied.inject
    (cat,) = branch.edited.tokens_of("cat")
    (dog,) = branch.edited.tokens_of("dog")
    assert now[3, [cat, dog]].tolist() == [0.5, 1.0]


def test_words_of_several_pieces_and_of_an_earlier_edit():
    chain = (WordSwap("cat", "big grey dog house"), Mix("grey dog", "wolf-cub", 0.25))
    branch = plan(SOURCE, [chain], reader()).branches[0]
    assert branch.edited.text.startswith("a fluffy big grey dog wolf-cub house sits")
    (cat,) = reader()(SOURCE).tokens_of("cat")
    now = branch.at(0.0).map_edit.inject[cat]
    old = [t for word in ("big", "grey", "dog") for t in branch.edited.tokens_of(word)]
    new = branch.edited.tokens_of("wolf-cub")
    assert now[old].tolist() == pytest.approx([0.25] * 3)
    assert now[list(new)].sum().item() == pytest.approx(0.25)
    (house,) = branch.edited.tokens_of("house")
    assert branch.at(0.0).map_edit.keep[house] == 1.0


def test_a_numbered_word_is_mixed_as_by_its_occurrence():
    text = "a cat and a cat on the grass"
    one, other = (
        plan(text, [(mix,)], reader()).branches[0]
        for mix in (Mix("cat #2", "big dog", 0.25), Mix("cat", "big dog", 0.25, occurrence=2))
    )
    assert one.edited.text == "a cat and a cat big dog on the grass"
    assert torch.equal(one.at(0.0).map_edit.inject, other.at(0.0).map_edit.inject)


@pytest.mark.parametrize("degree", [-0.1, 1.1, float("nan")])
def test_other_degrees_are_refused(degree):
    with pytest.raises(ValueError, match="Expected a degree from 0"):
        Mix("cat", "dog", degree)


def test_nothing_cannot_be_mixed_in():
    with pytest.raises(ValueError, match="Expected words to mix in, got none"):
        Mix("cat", " ", 0.5)
