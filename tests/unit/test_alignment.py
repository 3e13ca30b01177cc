"""What becomes of the words: for any text, any chain of edits, any number of chunks."""

import itertools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import ALL, chunks_of_three, reader

from p2p_core.alignment import Draft, Span, align, changes, describe, mapper, revise
from p2p_core.controller import plan
from p2p_core.edits import Refine, WordSwap
from p2p_core.matching import matching
from p2p_core.schedules import Schedule, Window
from p2p_core.tokens import read_prompt, split_words

SOME = st.lists(
    st.sampled_from(
        [
            "a",
            "A",
            "cat",
            "Cat",
            "cat,",
            "dog",
            "Straße",
            "STRASSE",
            "a.b",
            "don't",
            "—",
            "🦊",
            "x_",
        ]
    ),
    max_size=12,
).map(" ".join)
TEXTS = st.text(max_size=40) | SOME
HABITS = (split_words, *ALL)
FEW = st.lists(st.sampled_from("abc"), max_size=6)


def refined(source, *texts, read=None, **settings):
    chain = tuple(Refine(text, **settings) for text in texts)
    return plan(source, [chain], read or reader()).branches[0]


def words_of(prompt, span_words):
    return [prompt.words[i].text.casefold() for i in span_words]


def longest_common(a, b):
    """Length of the longest sequence that is a part of both, by trying all of them."""
    parts = (part for size in range(len(a), -1, -1) for part in itertools.combinations(a, size))
    return next(len(part) for part in parts if part in set(itertools.combinations(b, len(part))))


@settings(deadline=None, max_examples=60)
@given(FEW, FEW)
def test_a_matching_is_of_equal_items_in_order_and_as_long_as_can_be(a, b):
    pairs = matching(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < n for (i, j), (k, n) in pairwise(pairs))
    assert len(pairs) == longest_common(a, b)


@settings(deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_a_draft_is_the_text_it_was_given_last_and_covers_all_of_the_source(source, texts):
    draft, read = Draft.of(source), reader(split_words)
    for edit, text in enumerate(texts):
        draft = revise(draft, read(draft.text), read(text), edit)
        assert draft.text == text
    assert draft.pieces[0].start == 0
    assert draft.pieces[-1].end == len(source)
    assert all(a.end == b.start for a, b in pairwise(draft.pieces))
    for piece in draft.pieces:
        if piece.edit is None:
            assert piece.text == source[piece.start : piece.end]


@settings(deadline=None)
@given(
    source=TEXTS, texts=st.lists(TEXTS, min_size=1, max_size=2), tokenise=st.sampled_from(HABITS)
)
def test_refining_covers_all_words_and_keeps_those_that_both_have(source, texts, tokenise):
    read = reader(tokenise)
    if not (read(source).words and all(read(text.strip()).words for text in texts)):
        return
    branch, prompt = refined(source, *texts, read=read), read(source)
    assert branch.edited.text == texts[-1].strip()
    spans = branch.spans
    assert [i for span in spans for i in span.source] == list(range(len(prompt.words)))
    assert [j for span in spans for j in span.edited] == list(range(len(branch.edited.words)))
    if tokenise is not split_words:  # others may have words without tokens, in one text only
        return
    kept = [span for span in spans if span.kind == "kept"]
    for span in kept:
        assert len(span.source) == len(span.edited) == 1
        assert words_of(prompt, span.source) == words_of(branch.edited, span.edited)
    if len(texts) == 1:
        every = [range(len(p.words)) for p in (prompt, branch.edited)]
        pairs = matching(words_of(prompt, every[0]), words_of(branch.edited, every[1]))
        assert [(span.source[0], span.edited[0]) for span in kept] == pairs


@pytest.mark.parametrize(
    ("source", "edited", "alignment"),
    [
        ("a cat", "big a cat", "+big, a, cat"),
        ("a cat", "a cat at night", "a, cat, +at night"),
        ("a cat", "cat", "−a, cat"),
        ("a cat", "a", "a, −cat"),
        ("x", "y x z", "+y, x, +z"),
        ("cat", "dog", "cat → dog"),
        ("Cat on grass", "A cat on grass", "+A, cat, on, grass"),
        ("a wet cat on grass", "the wet Cat sleeps", "a → the, wet, Cat, on grass → sleeps"),
        ("a cat, a dog", "a cat and a dog", "a, cat, , → and, a, dog"),
    ],
)
def test_the_alignment_in_words(source, edited, alignment):
    branch = refined(source, edited)
    assert branch.edited.text == edited
    assert describe(reader()(source), branch.edited, branch.spans) == alignment


def test_what_one_edit_of_a_chain_changed():
    chain = (WordSwap("cat", "big dog"), Refine("a big dog at night, on grass"))
    source = reader()("a cat on grass")
    branch = plan(source.text, [chain], reader()).branches[0]
    said = [changes(source, branch.edited, branch.spans, edit) for edit in (0, 1, None)]
    assert said == [
        "cat → big dog · 3 words kept",
        "+at night , · 3 words kept",
        "cat → big dog, +at night , · 3 words kept",
    ]
    assert changes(source, source, refined(source.text, source.text).spans) == (
        "no word changed · 4 words kept"
    )


def test_a_long_alignment_is_its_changes_with_two_words_around():
    text = " ".join(f"w{n}" for n in range(30))
    edited = text.replace("w2 ", "new ").replace("w5 ", "").replace("w20 ", "w20 at night ")
    branch = refined(text, edited)
    said = "… w0 w1 [w2 → new] w3 w4 [−w5] w6 w7 … w19 w20 [+at night] w21 w22 … · 28 words kept"
    assert describe(reader()(text), branch.edited, branch.spans) == said.removeprefix("… ")


def test_a_word_in_another_case_is_kept_whatever_becomes_of_the_others():
    branch = refined("Cat on grass", "a cat on sand", inject_swapped=False)
    assert [span.kind for span in branch.spans] == ["inserted", "kept", "kept", "swapped"]
    pair = branch.at(0.0).map_edit
    assert pair.inject[1, 2] == 1
    assert pair.keep[[1, 2, 3, 4]].tolist() == [1, 0, 0, 1]


def test_refining_what_was_swapped():
    """The swapped words stay the swap's unless the refinement writes inside them."""
    swap = WordSwap("cat", "big dog", schedule=Schedule(Window(0, 0.2)))
    refine = Refine("a wet big dog on grass", schedule=Schedule(Window(0, 0.6)))
    branch = plan("a cat on grass", [(swap, refine)], reader()).branches[0]
    assert [(span.kind, span.edit) for span in branch.spans] == [
        ("kept", None),
        ("inserted", 1),
        ("swapped", 0),
        ("kept", None),
        ("kept", None),
    ]
    kept_by_refine = branch.at(0.4).map_edit.keep[1:7]
    assert kept_by_refine.tolist() == [0, 1, 1, 1, 0, 0]
    inside = Refine("a big wet dog on grass")
    branch = plan("a cat on grass", [(swap, inside)], reader()).branches[0]
    assert [(span.kind, span.edit) for span in branch.spans][1] == ("swapped", 1)
    assert branch.spans[1].edited == range(1, 4)


def test_refining_beside_what_was_written_leaves_it_to_its_edit():
    chain = (Refine("wet cat on grass"), WordSwap("on", ""), Refine("wet sad cat grass"))
    branch = plan("cat on grass", [chain], reader()).branches[0]
    assert describe(reader()("cat on grass"), branch.edited, branch.spans) == (
        "+wet, +sad, cat, −on, grass"
    )
    assert [span.edit for span in branch.spans] == [0, 2, None, 1, None]


def test_what_is_put_in_the_place_of_deleted_words_is_in_their_place():
    chain = (WordSwap("cat", ""), Refine("a dog on grass"))
    branch = plan("a cat on grass", [chain], reader()).branches[0]
    assert [(span.kind, span.edit) for span in branch.spans][1] == ("swapped", 1)
    assert torch.equal(branch.mapper, torch.eye(77))


def test_swapping_what_was_refined():
    chain = (Refine("a big cat on grass"), WordSwap("big cat", "dog"))
    branch = plan("a cat on grass", [chain], reader()).branches[0]
    assert branch.edited.text == "a dog on grass"
    assert torch.equal(branch.mapper, torch.eye(77))


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(0))
def test_a_replacement_never_runs_into_the_words_beside_it(source, replacement, choice):
    words = split_words(source)
    if not words or (len(words) == 1 and not split_words(replacement)):
        return
    at = choice % len(words)
    word = words[at]
    occurrence = 1 + sum(w.casefold() == word.casefold() for w in words[:at])
    swap = WordSwap(word, replacement, occurrence)
    edited = plan(source, [(swap,)], reader(split_words)).branches[0].edited.text
    words[at : at + 1] = split_words(replacement.strip())
    assert split_words(edited) == words


@pytest.mark.parametrize(
    ("words", "replacement", "edited"),
    [
        (",", "and", "a cat and a dog"),
        (",", "", "a cat a dog"),
        ("cat", "cat-flap", "a cat-flap, a dog"),
        ("a cat", "!", "! , a dog"),
    ],
)
def test_a_replacement_is_set_apart_where_it_must(words, replacement, edited):
    branch = plan("a cat, a dog", [(WordSwap(words, replacement),)], reader()).branches[0]
    assert branch.edited.text == edited


def test_tokens_that_both_words_have_keep_their_columns():
    """ "butterfly" is but·ter·fly, "buttery" is but·ter·y: the last piece alone is another."""
    branch = refined("a butterfly", "a buttery", read=reader(chunks_of_three))
    assert torch.equal(branch.mapper, torch.eye(77))
    longer = refined("a butterfly", "a butxxxterfly", read=reader(chunks_of_three)).mapper
    assert longer[2, 2] == longer[3, 4] == longer[4, 5] == 1  # but, ter, fly
    assert not longer[:, 3].any()  # xxx is new: it attends for itself
    swapped = plan(
        "a butterfly", [(WordSwap("butterfly", "butxxxterfly"),)], reader(chunks_of_three)
    )
    assert torch.allclose(swapped.branches[0].mapper[2:5, 2:6], torch.full((3, 4), 0.25))


def specials(prompt):
    words = {t for word in prompt.words for t in word.tokens}
    return [t for t in range(prompt.length) if t not in words]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_special_tokens_take_the_sources_at_their_own_places(before, after, window):
    """Starts and padding position by position, ends chunk by chunk, if both have as many chunks.

    Else each kind is laid over its like: none is lost, and none left out.
    """
    read, size = reader(window=window), window + 2
    source, edited = read(" ".join(["cat"] * before)), read(" ".join(["cat"] * after))
    draft = revise(Draft.of(source.text), source, edited, 0)
    matrix = mapper(source, edited, align(draft, source, edited, (0,)))
    here, there = specials(source), specials(edited)
    starts, to_starts = (range(0, prompt.length, size) for prompt in (source, edited))
    if source.length == edited.length:
        expected = torch.eye(source.length)[:, there]
        end, to_end = (words + 1 + 2 * ((words - 1) // window) for words in (before, after))
        expected[:, there.index(to_end)] = torch.eye(source.length)[end]
        assert torch.equal(matrix[:, there], expected)
        return
    assert torch.allclose(matrix[here].sum(1), torch.ones(len(here)))
    assert (matrix[:, there].sum(0) > 0).all()
    assert torch.allclose(matrix[starts][:, to_starts].sum(1), torch.ones(len(starts)))


def test_a_text_that_is_filled_up_in_front_keeps_what_stands_around_its_words():
    """Special tokens go with the text, wherever it begins; fillings are laid over each other."""

    def read(text, front):
        words = text.split()
        length = len(words) + 2
        bare = read_prompt(text, words, range(1, 1 + len(words)), length, str.split)
        return bare.behind(front - length)

    source, edited = read("a cat", 8), read("a big cat", 8)
    spans = [Span(range(0, 1), range(0, 1), None), Span(range(0), range(1, 2), 0)]
    spans.append(Span(range(1, 2), range(2, 3), None))
    matrix = mapper(source, edited, spans)
    assert matrix.shape == (8, 8)
    assert [matrix[row].nonzero().flatten().tolist() for row in range(4, 8)] == [[3], [4], [6], [7]]
    assert torch.equal(matrix[:4].sum(1), torch.ones(4))
    assert not matrix[:4, 3:].any()
    bare = read("a cat", 4)  # fills it: nothing is in front
    assert torch.equal(mapper(bare, bare, [spans[0]])[0], torch.eye(4)[0])
