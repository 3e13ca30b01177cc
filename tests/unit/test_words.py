"""Words, tokens and alignment, for any text and any tokenizer.

Every token is covered and nothing crashes.
"""

import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from text_tokenizers import ALL, chunks_of_three, context_dependent, reader, swallowing, whole_words

from p2p_core.alignment import Draft, align, mapper
from p2p_core.controller import Controller, Rows, plan
from p2p_core.edits import Refine, SelfInjection, WordSwap
from p2p_core.matching import matching
from p2p_core.schedules import Schedule, Window
from p2p_core.tokens import Segment, check_size, parted, read_prompt, split_words

TEXTS = st.text(max_size=300)
LONG = st.lists(
    st.sampled_from(["cat", "cat,", "Straße", "naïve", "🦊", "a.b", "don't", "—", "東京", "x_y"]),
    max_size=200,
)


def swap(text, *swaps, read=None, **settings):
    chain = tuple(WordSwap(*words, **settings) for words in swaps)
    return plan(text, [chain], read or reader()).branches[0]


@settings(deadline=None, max_examples=150)
@given(text=TEXTS | LONG.map(" ".join), tokenise=st.sampled_from(ALL))
def test_every_token_belongs_to_exactly_one_word(text, tokenise):
    prompt = reader(tokenise)(text)
    owned = [t for word in prompt.words for t in word.tokens]
    window = 75
    expected = [(i // window) * (window + 2) + 1 + i % window for i in range(len(tokenise(text)))]
    assert sorted(owned) == expected
    for word in prompt.words:
        assert prompt.text[word.start : word.end] == word.text


@settings(deadline=None, max_examples=150)
@given(
    words=LONG.filter(bool),
    choice=st.integers(0),
    replacement=st.text(max_size=30) | LONG.map(" ".join),
    tokenise=st.sampled_from(ALL),
)
def test_swapping_any_word_for_anything_covers_all_tokens(words, choice, replacement, tokenise):
    read = reader(tokenise)
    source = read(" ".join(words))
    if not source.words:
        return
    word = source.words[choice % len(source.words)]
    if not split_words(word.text):
        return
    found = source.find(word.text)  # the same pieces may stand earlier, as words of their own
    start, end = source.words[found[0]].start, source.words[found[-1]].end
    if not read(source.text[:start] + replacement.strip() + source.text[end:]).words:
        with pytest.raises(ValueError, match="nothing of the prompt"):
            swap(source.text, (word.text, replacement), read=read)
        return
    branch = swap(source.text, (word.text, replacement), read=read)
    covered_source = [i for span in branch.spans for i in span.source]
    covered_edited = [j for span in branch.spans for j in span.edited]
    assert covered_source == list(range(len(source.words)))
    assert covered_edited == list(range(len(branch.edited.words)))
    assert branch.mapper.shape == (source.length, branch.edited.length)
    assert branch.mapper.min() >= 0
    for span in branch.spans:
        if span.source:
            for j in span.edited:
                assert (branch.mapper[:, list(branch.edited.words[j].tokens)].sum(0) > 0).all()


@settings(deadline=None, max_examples=100)
@given(text=LONG.filter(bool).map(" ".join), tokenise=st.sampled_from(ALL))
def test_a_word_swapped_with_itself_maps_every_token_to_itself(text, tokenise):
    read = reader(tokenise)
    source = read(text)
    word = source.words[0].text
    if not split_words(word):
        return
    branch = swap(text, (word, word), read=read)
    assert branch.edited == source
    assert torch.equal(branch.mapper, torch.eye(source.length))


def test_words_and_their_tokens():
    prompt = reader(chunks_of_three)("A fluffy cat, asleep")
    assert [(word.text, word.tokens) for word in prompt.words] == [
        ("A", (1,)),
        ("fluffy", (2, 3)),
        ("cat", (4,)),
        (",", (5,)),
        ("asleep", (6, 7)),
    ]


def test_weights_are_no_words():
    prompt = reader(swallowing)("a (red:1.3) cat")
    assert [word.text for word in prompt.words] == ["a", "red", "cat"]


def test_a_tokenizer_that_merges_across_words_still_gives_every_token_to_a_word():
    prompt = reader(context_dependent)("ab cde f")
    assert sorted(t for word in prompt.words for t in word.tokens) == list(range(1, 5))


def test_text_that_looks_like_no_word_is_one():
    prompt = read_prompt("\u200b", ["x"], [1], 3, lambda text: [])
    assert [word.tokens for word in prompt.words] == [(1,)]


def test_find_by_case_occurrence_and_phrase():
    prompt = reader()("a cat, a big Cat and a cat-flap")
    assert prompt.find("cat") == range(1, 2)
    assert prompt.find("CAT", 2) == range(5, 6)
    assert prompt.find("big cat") == range(4, 6)
    assert prompt.find("cat-flap") == range(8, 9)


@pytest.mark.parametrize(
    ("phrase", "occurrence", "message"),
    [
        ("dog", 1, "'dog' is not in the prompt 'a cat'. Its words are: a, cat."),
        ("", 1, "Expected a word of the prompt, got ''. Its words are: a, cat."),
        (
            "cat",
            2,
            "occurs 1 time(s) in the prompt 'a cat', but occurrence 2 was asked for. "
            "Choose 1 to 1.",
        ),
        ("cat", 0, "Choose 1 to 1."),
    ],
)
def test_words_that_are_not_there(phrase, occurrence, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        reader()("a cat").find(phrase, occurrence)


@pytest.mark.parametrize(
    ("phrase", "meant"),
    [
        ("rad", "Red"),
        ("cats", "cat"),
        ("cat,", "cat"),
        ("(red:1.4)", "Red"),
        ("striped=3", "striped"),
        ("stripped cat", "striped cat"),
    ],
)
def test_the_nearest_words_are_named(phrase, meant):
    said = f"{phrase!r} is not in the prompt. Did you mean {meant!r}?"
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        reader()("a Red and striped cat on the grass").find(phrase)


def test_a_long_prompt_is_not_repeated_whole():
    prompt = reader()(" ".join(f"word{n}" for n in range(100)))
    for phrase, occurrence in (("dog", 1), ("word7", 2)):
        with pytest.raises(ValueError, match=phrase) as failure:
            prompt.find(phrase, occurrence)
        assert len(str(failure.value)) < 400
    with pytest.raises(ValueError, match=r"word19, … \(100 in all\)\."):
        prompt.find("dog")


def test_an_occurrence_by_its_number():
    prompt = reader()("a cat and a cat in room #2")
    assert prompt.find("cat #2") == prompt.find("cat", 2) == prompt.find("cat #2", 2)
    assert prompt.find("room #2") == range(6, 9)
    with pytest.raises(ValueError, match="one number for the occurrence of 'cat', got #2 and 3"):
        prompt.find("cat #2", 3)


@settings(deadline=None, max_examples=100)
@given(text=TEXTS | LONG.map(" ".join), tokenise=st.sampled_from(ALL), data=st.data())
def test_a_name_finds_the_words_that_it_was_made_of(text, tokenise, data):
    prompt = reader(tokenise)(text)
    if not prompt.words:
        return
    start = data.draw(st.integers(0, len(prompt.words) - 1))
    words = range(start, data.draw(st.integers(start + 1, len(prompt.words))))
    if name := prompt.name(words):
        found, tokens = prompt.tokens_of(name), [prompt.words[i].tokens for i in words]
        assert set(found) <= {token for some in tokens for token in some}
        around = {
            t
            for i, some in zip(words, tokens, strict=True)
            for t in some
            if not any(map(str.isalnum, prompt.words[i].text))
        }
        assert {token for some in tokens for token in some} - set(found) <= around


@given(text=st.text(max_size=60), other=st.text(max_size=60))
def test_where_two_texts_differ_is_a_part_of_them(text, other):
    for part, whole in zip(parted(text, other), (text, other), strict=True):
        assert part.removeprefix("… ").removesuffix(" …").strip() in " ".join(whole.split())


def test_positions_must_match_tokens():
    with pytest.raises(ValueError, match="position for each of the 2 tokens, got 1"):
        read_prompt("a b", ["a", "b"], [1], 4, whole_words)


def test_equal_token_counts_map_one_to_one():
    branch = swap("a red cat", ("cat", "dog"))
    assert branch.edited.text == "a red dog"
    assert torch.equal(branch.mapper, torch.eye(77))


def test_other_token_counts_get_the_sum_divided_and_later_words_their_own_columns():
    """The reference shifts every word after such a swap to a wrong column; this must not."""
    branch = swap("a cat on grass", ("cat", "big red dog"))
    assert branch.edited.text == "a big red dog on grass"
    matrix = branch.mapper
    assert torch.allclose(matrix[2, 2:5], torch.full((3,), 1 / 3))
    assert matrix[3, 5] == matrix[4, 6] == 1  # on, grass
    assert matrix[5, 7] == 1  # the end token
    assert torch.equal(matrix[:, 8:], torch.eye(77)[:, 8:])  # padding its own place
    back = swap("a big red dog on grass", ("big red dog", "cat"))
    assert torch.equal(back.mapper[2:5, 2], torch.ones(3))
    assert back.mapper[5, 3] == 1


def test_several_swaps_and_swaps_of_swapped_words():
    branch = swap("a cat and a dog", ("cat", "big fox"), ("dog", "hen"), ("big fox", "owl"))
    assert branch.edited.text == "a owl and a hen"
    assert [(span.kind, span.edit) for span in branch.spans if span.kind != "kept"] == [
        ("swapped", 2),
        ("swapped", 1),
    ]
    assert torch.equal(branch.mapper, torch.eye(77))
    part = swap("a cat sat", ("cat", "big fox"), ("fox sat", "hen"))
    assert part.edited.text == "a big hen"
    assert [(span.source, span.edited) for span in part.spans] == [
        (range(0, 1), range(0, 1)),
        (range(1, 3), range(1, 3)),
    ]


def test_the_second_occurrence_is_swapped():
    assert swap("a cat and a cat", ("cat", "dog", 2)).edited.text == "a cat and a dog"


def test_swapping_for_nothing_deletes():
    branch = swap("a red cat", ("red", ""))
    assert [span.kind for span in branch.spans] == ["kept", "deleted", "kept"]
    assert branch.mapper[2].sum() == 0
    assert branch.mapper[3, 2] == 1


def test_each_swap_holds_its_own_words_and_the_kept_ones():
    branch = swap("a cat and a dog", ("cat", "fox"), ("dog", "hen"))
    first, second = (acting.words.held for acting in branch.acting)
    assert first[[2, 5]].tolist() == [1, 0]
    assert second[[2, 5]].tolist() == [0, 1]
    assert first[[0, 1, 3, 6]].tolist() == second[[0, 1, 3, 6]].tolist() == [1, 1, 1, 1]


def test_longer_edited_prompt_takes_a_second_chunk():
    text = " ".join(["word"] * 70) + " cat"
    controller = plan(text, [(WordSwap("cat", " ".join(["dog"] * 10)),)], reader())
    assert [prompt.length for prompt in controller.prompts] == [77, 154]
    assert controller.length == 154
    (moment,) = controller.at(0.0, 154)
    assert moment.map_edit.inject.shape == (154, 154)
    with pytest.raises(ValueError, match="multiple of 154 tokens, got 77"):
        controller.at(0.0, 77)


def test_empty_prompts_are_refused():
    with pytest.raises(ValueError, match="Expected a source prompt with words in it, got ' '"):
        plan(" ", [(WordSwap("a", "b"),)], reader())
    with pytest.raises(ValueError, match="nothing of the prompt 'cat'"):
        swap("cat", ("cat", ""))


def test_branch_acts_in_its_windows():
    branch = swap(
        "a cat",
        ("cat", "dog"),
        schedule=Schedule(Window(0.2, 0.5)),
        self_injection=SelfInjection(Window(0, 0.3), 0.5),
    )
    assert branch.at(0.0).map_edit.is_untouched
    assert branch.at(0.0).self_reaches == {0.5}
    assert torch.equal(branch.at(0.2).map_edit.inject, torch.eye(77))
    assert not branch.at(0.2).map_edit.keep.any()
    assert branch.at(0.3).self_reaches == set()
    assert branch.at(0.5).map_edit.is_untouched


def test_rows_are_sources_first_then_edits_block_by_block():
    rows = Rows(sources=2, edits=3)
    assert rows.total == 8
    assert [[*range(8)[block]] for block in rows.blocks] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert list(rows.pairs(1)) == [(4, 0), (5, 1)]


def test_mapper_of_prompts_with_different_chunk_counts_loses_no_padding():
    read = reader()
    source, edited = read("cat"), read(" ".join(["cat"] * 80))
    draft = Draft.of("cat").replace(0, 3, edited.text, 0)
    matrix = mapper(source, edited, align(draft, source, edited))
    assert torch.allclose(matrix.sum(1), torch.ones(77), atol=1e-5)


def test_controller_is_a_value():
    make = lambda: plan("a cat", [(WordSwap("cat", "dog"),)], reader())  # noqa: E731
    assert isinstance(make(), Controller)
    assert make().prompts == make().prompts


class Compared:
    """An item that counts how often it is compared."""

    count = 0

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return hash(self.value)

    def __eq__(self, other):
        Compared.count += 1
        return self.value == other.value


def test_items_to_be_matched_are_compared_once_each_not_with_each_other():
    a, b = ([Compared(n) for n in range(start, 300)] for start in (0, 50))
    Compared.count = 0
    assert matching(a, b) == [(n + 50, n) for n in range(250)]
    assert Compared.count <= len(a) + len(b)


@settings(deadline=None)
@given(st.text("a# 12\t", max_size=12))
@example("a#1#1")
def test_a_number_behind_a_phrase_is_which_one_is_meant(text):
    """As written in tooltips: "cat #2"; the number must be there, and so must the phrase."""
    prompt = reader()(" ".join(["a"] * 12))
    numbered = re.fullmatch(r"(.+?)\s*#\s*(\d+)", text.strip())
    words = split_words(numbered[1] if numbered else text)
    number = int(numbered[2]) if numbered else 1
    if set(words) == {"a"} and 1 <= number <= 13 - len(words):
        last = number + len(words) if numbered else 13
        assert prompt.tokens_of(text) == list(range(number, last))
    else:
        with pytest.raises(ValueError, match=r"Expected|is not in the prompt|Choose 1 to"):
            prompt.tokens_of(text)


@pytest.mark.parametrize("text", ["cat " * 5_001, "a" * 1_001, "!" * 1_001])
def test_texts_that_are_not_to_be_tokenised(text):
    with pytest.raises(ValueError, match=r"Expected .* at most .* got .*Shorten it"):
        check_size(text)
    check_size(text[: len(text) // 2])


def test_prompts_of_too_many_tokens():
    with pytest.raises(ValueError, match="at most 2048 tokens, got 2079"):
        reader()("cat " * 2_000)


def test_what_the_tokenizer_drops_has_no_words_and_divides_none():
    """ "(wet:2) wet" read as "wet" and " wet", the second alone with a bracket that is meant."""
    text = r"(wet:2) wet\)"
    segments = [Segment("wet", (1, 2, 3, 4)), Segment(" wet)", (7, 8, 9, 10, 11, 13))]
    prompt = read_prompt(text, ["wet", "wet", ")"], [1, 2, 3], 9, whole_words, segments)
    assert [(word.text, word.start, word.tokens) for word in prompt.words] == [
        ("wet", 1, (1,)),
        ("wet", 8, (2,)),
        (r"\)", 11, (3,)),
    ]
    assert prompt.find(r"wet\)") == range(1, 3)


def test_words_of_which_the_tokenizer_makes_one_thing_are_one_word():
    def tokenise(text):
        return [1, 2] if text == "'tis" else [ord(c) for c in text.strip()]

    prompt = read_prompt("'tis a", [1, 2, ord("a")], [1, 2, 3], 9, tokenise)
    assert [(word.text, word.tokens) for word in prompt.words] == [("'tis", (1, 2)), ("a", (3,))]
    assert prompt.find("'tis") == prompt.find("tis") == range(1)


def test_each_text_is_read_once_however_many_chains_there_are():
    texts = []

    def read(text):
        texts.append(text)
        return reader()(text)

    plan("a cat", [(WordSwap("cat", "dog"),), (Refine("a dog"),), (Refine("a dog"),)], read)
    assert sorted(texts) == ["a cat", "a dog"]
