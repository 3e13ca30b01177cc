"""What edits would make of a prompt, told before anything runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_core.controller import plan
from p2p_core.edits import Refine, Reweight, WordSwap
from p2p_core.local_blend import LocalBlend
from p2p_core.previewing import lacking, preview, spans_of, words_of
from p2p_core.tokens import Prompt, read_prompt

SOURCE = "a red circle and a red square"


def read(text: str) -> Prompt:
    """With a tokenizer that makes a token of every word."""
    words = text.split()
    return read_prompt(text, words, range(1, 1 + len(words)), 32, str.split)


def test_a_chain_without_mistakes_is_what_a_run_plans() -> None:
    chain = (WordSwap("red #2", "deep blue"), Reweight((("blue", 2.0),)), LocalBlend())
    told = preview(read(SOURCE), chain, read)
    branch = plan(SOURCE, [chain], read).branches[0]
    assert (told.edited, told.spans, told.mistakes) == (branch.edited, branch.spans, ())
    assert [prompt.text for prompt in told.before] == [SOURCE, *[branch.edited.text] * 2]


def test_each_mistake_is_at_its_link_and_the_rest_is_told() -> None:
    chain = (
        WordSwap("rad", "blue"),
        LocalBlend(("circel",)),
        WordSwap("circle", "star"),
        Reweight((("moon", 2.0),)),
    )
    told = preview(read(SOURCE), chain, read)
    assert told.edited.text == "a red star and a red square"
    assert [(m.link, m.phrase, m.nearest) for m in told.mistakes] == [
        (0, "rad", "red"),
        (3, "moon", ""),
        (1, "circel", "circle"),
    ]
    assert {span.edit for span in told.spans} == {None, 2}


def test_where_every_link_is_mistaken_the_source_is_left() -> None:
    told = preview(read(SOURCE), (WordSwap("rad", "blue"), LocalBlend()), read)
    assert told.edited.text == SOURCE
    assert {span.kind for span in told.spans} == {"kept"}
    assert len(told.before) == 2


def test_a_mask_alone_changes_no_word_and_is_no_mistake() -> None:
    told = preview(read(SOURCE), (LocalBlend(("circle",)),), read)
    assert (told.edited.text, told.mistakes) == (SOURCE, ())


def test_what_is_wrong_with_a_whole_chain_is_of_no_link() -> None:
    chain = (WordSwap("red", "blue"), LocalBlend(), LocalBlend())
    (mistake,) = preview(read(SOURCE), chain, read).mistakes
    assert mistake.link is None
    assert "at most one local blend" in mistake.message


def test_a_phrase_is_lacking_only_where_no_prompt_has_it() -> None:
    prompts = [read(SOURCE), read("a blue star")]
    assert lacking(["circle", "star"], prompts) == []
    (mistake,) = lacking(["starr"], prompts)
    assert (mistake.phrase, mistake.nearest) == ("starr", "star")


@given(st.lists(st.sampled_from(["red", "cat", "a", "blue", "dog"]), min_size=1, max_size=8))
def test_a_name_finds_the_word_that_it_names(words: list[str]) -> None:
    prompt = read(" ".join(words))
    for n, word in enumerate(words_of(prompt)):
        assert prompt.find(str(word["name"])) == range(n, n + 1)


@given(
    st.lists(st.sampled_from(["red", "cat", "a", "dog"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["red", "cat", "a", "big"]), min_size=1, max_size=6),
)
def test_spans_as_data_cover_both_prompts_in_order(before: list[str], after: list[str]) -> None:
    source = read(" ".join(before))
    told = preview(source, (Refine(" ".join(after)),), read)
    spans = spans_of(source, told.edited, told.spans)
    assert [word for span in spans for word in span["source"]] == before  # type: ignore[attr-defined]
    assert [word for span in spans for word in span["edited"]] == after  # type: ignore[attr-defined]


def test_a_source_without_words_is_one_mistake() -> None:
    told = preview(read(" "), (WordSwap("red", "blue"),), read)
    assert [m.link for m in told.mistakes] == [None]


def test_a_mistake_says_what_a_run_would_say() -> None:
    chain = (WordSwap("rad", "blue"),)
    (mistake,) = preview(read(SOURCE), chain, read).mistakes
    with pytest.raises(ValueError, match="Did you mean 'red'") as error:
        plan(SOURCE, [chain], read)
    assert mistake.message == str(error.value)
