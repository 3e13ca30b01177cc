"""Several words with a value each, written in one text."""

import pytest
from text_tokenizers import reader

from p2p_core.notation import parse_factors, parse_windows, parse_words
from p2p_core.schedules import Window


def test_words_are_separated_by_commas_and_lines():
    assert parse_words(" cat, big dog\n\nsky ,") == ("cat", "big dog", "sky")
    assert parse_words("  ") == ()


def test_factors_of_their_own_or_the_common_one():
    text = "fluffy, tail: -1.5\ncat #2: 3"
    assert parse_factors(text, 2.0) == (("fluffy", 2.0), ("tail", -1.5), ("cat #2", 3.0))


@pytest.mark.parametrize("value", ["", "much", "nan", "inf"])
def test_a_factor_that_is_no_number(value):
    with pytest.raises(ValueError, match=rf"Expected a number, got '{value}' in 'cat: {value}"):
        parse_factors(f"cat: {value}", 1.0)


def test_an_equals_sign_is_a_colon():
    assert parse_factors("striped=3, tail = -1, cat #2: 2", 1.0) == parse_factors(
        "striped: 3, tail: -1, cat #2=2", 1.0
    )
    assert parse_windows("wing=0-1") == parse_windows("wing: 0-1")


def test_a_weight_of_a_prompt_is_no_factor():
    with pytest.raises(ValueError, match=r"got '\(red:1\.4\)'.* Did you mean 'red: 1\.4'\?"):
        parse_factors("(red:1.4)", 1.0)


def test_windows():
    assert parse_windows("butterfly: 0-1, wing: 0.2 to 0.8 fade 0.1") == (
        ("butterfly", Window(0, 1)),
        ("wing", Window(0.2, 0.8, 0.1)),
    )
    assert parse_windows("cat #2: 0–0.5") == (("cat #2", Window(0, 0.5)),)


@pytest.mark.parametrize("text", ["butterfly", "butterfly: 1", "butterfly: a-b", ": 0-1"])
def test_what_is_no_window(text):
    with pytest.raises(ValueError, match=r"such as 'butterfly: 0-1' or .* got"):
        parse_windows(text)


def test_a_window_out_of_range_says_so():
    with pytest.raises(ValueError, match="within 0 and 1, got 0 to 2"):
        parse_windows("butterfly: 0-2")


def test_every_occurrence_or_the_one_that_is_numbered():
    prompt = reader()("a cat and a cat and a dog")
    assert prompt.tokens_of("cat") == [2, 5]
    assert prompt.tokens_of("CAT #2") == [5]
    assert prompt.tokens_of("a cat") == [1, 2, 4, 5]
    with pytest.raises(ValueError, match=r"occurs 2 time\(s\) .* occurrence 3"):
        prompt.tokens_of("cat #3")
    with pytest.raises(ValueError, match="Its words are: a, cat, and"):
        prompt.tokens_of("bird")


def test_a_number_that_the_prompt_has_itself():
    prompt = reader()("a cat in cat #2 and a cat")
    (hash_sign,) = (word for word in prompt.words if word.text == "#")
    assert set(hash_sign.tokens) < set(prompt.tokens_of("cat #2"))
    assert prompt.tokens_of("cat #3") == list(prompt.words[-1].tokens)


def test_a_factor_without_a_word_says_so():
    with pytest.raises(ValueError, match="a word before its factor, got ': 2'"):
        parse_factors("cat: 1, : 2", 1.0)
