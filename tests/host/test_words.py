"""Words under weights, brackets, escapes and embeddings, with the host's own tokenizers.

The host itself says which tokens are a word's: those that another word in its place takes.
"""

from itertools import groupby

import comfy.sd
import pytest
import torch
from comfy.sd1_clip import SD1Tokenizer, escape_important, token_weights, unescape_important
from comfy.sdxl_clip import SDXLTokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p_core.controller import plan
from p2p_core.edits import Refine, WordSwap
from p2p_core.hosts.comfyui.prompts import read, segments_of
from p2p_core.tokens import split_words

MARK = "zebra"
TAGS = st.sampled_from(
    ["night", "Night", "1girl", "3", "cat's", "red-haired girl", "naïve", "東京", "x_y", "🦊"]
)
ESCAPED = TAGS.map(lambda tag: [f"\\({tag}\\)"])
WEIGHTS = st.sampled_from(["", ":1.2", ":3", ": 0.5", ":-1"])


class Literal(SD1Tokenizer):
    """Takes brackets as they stand, as the host's newer encoders do."""

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        return super().tokenize_with_weights(text, return_word_ids, disable_weights=True, **kwargs)


def clip_of(tokenizer):
    clip = comfy.sd.CLIP(no_init=True)
    clip.tokenizer, clip.tokenizer_options = tokenizer, {}
    return clip


CLIPS = {"sd1": clip_of(SD1Tokenizer()), "sdxl": clip_of(SDXLTokenizer())}
BOTH = pytest.mark.parametrize("name", CLIPS)


def weighted(inner):
    """Tags in brackets: None stands for what the tokenizer drops, with its text."""
    several = st.lists(inner, min_size=1, max_size=3)
    return st.builds(
        lambda some, weight: [(None, "("), *tags(some), (None, f"{weight})")], several, WEIGHTS
    )


def tags(some):
    """Several of them, each a list of parts, as one list of parts."""
    return [part for n, one in enumerate(some) for part in ([", "] if n else []) + list(one)]


PROMPTS = st.lists(
    st.recursive(TAGS.map(lambda tag: [tag]) | ESCAPED, weighted, max_leaves=4),
    min_size=1,
    max_size=6,
).map(tags)


def written(parts):
    return "".join(part if isinstance(part, str) else part[1] for part in parts)


def words_of(parts):
    """The words of what is not dropped; brackets and weights set words apart."""
    runs = groupby(parts, lambda part: isinstance(part, str))
    return [word for kept, run in runs if kept for word in split_words("".join(run))]


def columns(clip, text):
    """(token, weight, number of its word, 0 for none) of all chunks, one after the other."""
    chunks = next(iter(clip.tokenize(text, return_word_ids=True).values()))
    return [column for chunk in chunks for column in chunk]


def tokenised(clip, text):
    """(token, weight) of the text itself."""
    return [(token, weight) for token, weight, word in columns(clip, text) if word]


def swapped(clip, prompt, n, replacement):
    """The prompt with its word number n swapped."""
    word = prompt.words[n].text
    before = [other.text.casefold() for other in prompt.words[:n]]
    swap = WordSwap(word, replacement, 1 + before.count(word.casefold()))
    (branch,) = plan(prompt.text, [(swap,)], lambda text: read(clip, text)).branches
    return branch.edited


@BOTH
@settings(deadline=None, max_examples=40)
@given(parts=PROMPTS)
@example(parts=tags([["red-haired girl"], ["1girl"]] * 13))  # of two chunks, padding between them
def test_every_word_is_found_with_the_tokens_that_stand_there(name, parts):
    clip, text = CLIPS[name], written(parts)
    prompt, content = read(clip, text), tokenised(clip, text)
    assert [word.text for word in prompt.words] == words_of(parts)
    own = [place for place, (_, _, word) in enumerate(columns(clip, text)) if word]
    ((mark, _),) = tokenised(clip, MARK)
    for word in prompt.words:
        first = own.index(word.tokens[0])
        last = first + len(word.tokens)
        assert list(word.tokens) == own[first:last]
        assert word.ids == tuple(token for token, _ in content[first:last])
        there = tokenised(clip, f"{text[: word.start]} {MARK} {text[word.end :]}")
        assert there == [*content[:first], (mark, content[first][1]), *content[last:]]


@BOTH
@settings(deadline=None, max_examples=40)
@given(parts=PROMPTS, choice=st.integers(0))
def test_a_swap_or_a_removal_leaves_all_other_words_and_all_weights(name, parts, choice):
    clip, text = CLIPS[name], written(parts)
    prompt, content = read(clip, text), tokenised(clip, text)
    n = choice % len(prompt.words)
    first, last = prompt.words[n].tokens[0] - 1, prompt.words[n].tokens[-1]
    ((mark, _),) = tokenised(clip, MARK)
    there = tokenised(clip, swapped(clip, prompt, n, MARK).text)
    assert there == [*content[:first], (mark, content[first][1]), *content[last:]]
    if len(prompt.words) > 1 and "_" not in text:  # which CLIP joins to what comes before it
        there = tokenised(clip, swapped(clip, prompt, n, "").text)
        assert there == content[:first] + content[last:]


@settings(deadline=None, max_examples=300)
@given(text=st.text(r"ab3 ().:\-e", max_size=24))
def test_what_is_dropped_is_what_the_host_drops(text):
    """Of any text, balanced or not: every character of a segment stands where it is said to."""
    segments, brackets = segments_of(text)
    theirs = [unescape_important(part) for part, _ in token_weights(escape_important(text), 1.0)]
    assert [segment.text for segment in segments] == theirs
    for segment in segments:
        for n, character in enumerate(segment.text):
            assert text[segment.at[n] : segment.at[n + 1]] in (character, "\\" + character)
    for bracket in brackets:
        assert (text[bracket.start], text[bracket.stop - 1]) == ("(", ")")


@BOTH
@pytest.mark.parametrize(
    ("text", "swap", "edited"),
    [
        ("(night), night, (sword:1.1)", ("night", "day"), "(day), night, (sword:1.1)"),
        ("(night), night, (sword:1.1)", ("night", "day", 2), "(night), day, (sword:1.1)"),
        (r"(wooden) horse, \(wooden\) river", ("horse", "cat"), r"(wooden) cat, \(wooden\) river"),
        (r"a cat \(tabby\) here", (r"\(tabby\)", "sat"), "a cat sat here"),
        ("two cats (red:3), (3)", ("3", "4"), "two cats (red:3), (4)"),
        ("a (red:1.2) cat", ("red", ""), "a  cat"),
        ("a ((red:1.2), (wet)) cat", ("wet", ""), "a ((red:1.2), ) cat"),
        ("a big (red:1.2) cat", ("big red cat", "dog"), "a dog"),
        ("a (red:1.2) cat", ("cat", "(dog:0.8)"), "a (red:1.2) (dog:0.8)"),
        ("a (red:1.2) cat", ("red", r"\(4:3\)"), r"a ( \(4:3\) :1.2) cat"),
    ],
)
def test_swaps_under_weights(name, text, swap, edited):
    clip = CLIPS[name]
    (branch,) = plan(text, [(WordSwap(*swap),)], lambda text: read(clip, text)).branches
    assert branch.edited.text == edited


@BOTH
@pytest.mark.parametrize(
    ("text", "phrase"), [("a (red:1.2) cat", "red cat"), ("a ((red), wet:1.2) cat", "a red")]
)
def test_words_that_brackets_divide_are_not_swapped_at_once(name, text, phrase):
    with pytest.raises(ValueError, match=r"Expected words under one weight, got .* divides\. Swap"):
        plan(text, [(WordSwap(phrase, "dog"),)], lambda text: read(CLIPS[name], text))


@BOTH
@pytest.mark.parametrize(
    ("text", "swap"),
    [
        ("a (cat 4:x)", ("x", "3")),
        ("a (big cat)", ("cat", ":2")),
        ("(night:1.2), cat", ("night", "day)")),
        ("a (big cat", ("cat", "dog)")),
    ],
)
def test_a_replacement_cannot_turn_words_into_weights_or_back(name, text, swap):
    with pytest.raises(ValueError, match="other words and their weights as they are, got"):
        plan(text, [(WordSwap(*swap),)], lambda text: read(CLIPS[name], text))


@BOTH
def test_a_refined_prompt_is_compared_by_its_words_not_by_its_weights(name):
    """The weight 3 is no word, so the 3 that is one is kept."""
    clip = CLIPS[name]
    chain = (Refine("two cats red, (3), (night:3)"),)
    (branch,) = plan("two cats (red:3), (3)", [chain], lambda text: read(clip, text)).branches
    kinds = [
        (span.kind, [branch.edited.words[n].text for n in span.edited]) for span in branch.spans
    ]
    assert kinds == [
        *(("kept", [word]) for word in ("two", "cats", "red", ",", "3")),
        ("inserted", [",", "night"]),
    ]


def test_brackets_that_are_text_are_text():
    clip = clip_of(Literal())
    prompt = read(clip, r"a (red:1.2) cat \(3\)")
    assert [word.text for word in prompt.words] == split_words(r"a (red:1.2) cat \(3\)")
    assert swapped(clip, prompt, 4, "2").text == r"a (red:2.2) cat \(3\)"


@pytest.mark.parametrize("vectors", [1, 4])
def test_an_embedding_is_one_word(vectors, tmp_path):
    from safetensors.torch import save_file

    save_file({"clip_l": torch.randn(vectors, 768)}, tmp_path / "shiny-style.safetensors")
    clip = clip_of(SD1Tokenizer(embedding_directory=str(tmp_path)))
    prompt = read(clip, "a red (embedding:shiny-style, wet:1.2) embedding:lost circle")
    own = tuple(range(3, 3 + vectors))
    named = {word.text: word.tokens for word in prompt.words}
    assert named == {
        "a": (1,),
        "red": (2,),
        "embedding:shiny-style": own,
        ",": (3 + vectors,),
        "wet": (4 + vectors,),
        "circle": (5 + vectors,),
    }
    assert prompt.tokens_of("embedding:shiny-style") == list(own)
    edited = swapped(clip, prompt, 2, "plain").text
    assert edited == "a red (plain, wet:1.2) embedding:lost circle"


class Counted:
    """A CLIP that counts how often it is asked."""

    def __init__(self, clip):
        self.clip, self.calls = clip, 0

    def tokenize(self, *args, **named):
        self.calls += 1
        return self.clip.tokenize(*args, **named)


@BOTH
def test_every_word_is_tokenised_once(name):
    """However often it stands there, and however many brackets: a thousand took minutes."""
    clip = Counted(CLIPS[name])
    prompt = read(clip, "(cat:1.2) " * 500 + "(big dog's:1.2), " * 100)
    assert [word.text for word in prompt.words] == ["cat"] * 500 + ["big", "dog's", ","] * 100
    assert clip.calls <= 12


@BOTH
@pytest.mark.parametrize(
    ("text", "message", "calls"),
    [
        ("cat " * 10_000, "at most 20000 characters, got 40000", 0),
        ("a" * 2_000, "words of at most 1000 letters, got one of 2000: 'aaaaaaaaaaaaaaaaaaaa'", 0),
        ("a " * 2_500, "at most 2048 tokens, got 2618", 1),
        (
            "( " * 1_500 + "a" + ")" * 900 + " )" * 600,
            "brackets that stand in each other a few times",
            1,
        ),
    ],
)
def test_what_would_take_minutes_to_read_is_refused_before(name, text, message, calls):
    clip = Counted(CLIPS[name])
    with pytest.raises(ValueError, match=message):
        read(clip, text)
    assert clip.calls <= calls + 4  # what it writes around a text and of weights is asked, too
