"""Words and tokens with the host's own CLIP tokenizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.prompts import read
from p2p_core.tokens import split_words

WORDS = [
    "cat",
    "Zebra,",
    "antidisestablishmentarianism",
    "naïve",
    "🦊",
    "a.b",
    "don't",
    "東京",
    "x_y",
    "(red:1.2)",
]


def words_and_ids(demo, prompt):
    flat = [entry for chunk in demo.clip.tokenize(prompt.text)["l"] for entry in chunk]
    return {word.text: [flat[t][0] for t in word.tokens] for word in prompt.words}


def test_words_find_their_own_tokens(demo):
    prompt = read(demo.clip, "A photo of a fluffy cat, asleep (on grass:1.3)!")
    ids = words_and_ids(demo, prompt)
    for word in ("photo", "fluffy", "cat", ",", "asleep", "on", "grass"):
        alone = demo.clip.tokenize(word)["l"][0]
        assert ids[word] == [token for token, _ in alone[1 : 1 + len(ids[word])]]
    assert "1" not in ids
    assert prompt.length == 77


def test_a_rare_word_keeps_all_its_tokens_together(demo):
    prompt = read(demo.clip, "an antidisestablishmentarianism rally")
    (word,) = [word for word in prompt.words if word.text.startswith("anti")]
    assert len(word.tokens) > 2
    assert list(word.tokens) == list(range(word.tokens[0], word.tokens[0] + len(word.tokens)))


def test_words_beyond_the_first_chunk(demo):
    prompt = read(demo.clip, "grass " * 80 + "zebra")
    assert prompt.length == 154
    zebra = prompt.words[-1]
    flat = [entry for chunk in demo.clip.tokenize(prompt.text)["l"] for entry in chunk]
    assert [flat[t][0] for t in zebra.tokens] == [demo.clip.tokenize("zebra")["l"][0][1][0]]
    assert zebra.tokens[0] > 77


def test_a_textual_inversion_of_many_vectors(demo, tmp_path, monkeypatch):
    """Its vectors belong to where it is written; the words around it keep their own tokens."""
    from safetensors.torch import save_file

    width = demo.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.shape[1]
    save_file({"clip_l": torch.randn(4, width)}, tmp_path / "shiny-style.safetensors")
    monkeypatch.setattr(demo.clip.tokenizer.clip_l, "embedding_directory", str(tmp_path))
    monkeypatch.setattr(demo.clip.tokenizer.clip_l, "embedding_size", width)
    text = "a red embedding:shiny-style circle, on grass"
    prompt = read(demo.clip, text)
    start = text.index("embedding")
    inside = [w for w in prompt.words if start <= w.start < start + len("embedding:shiny-style")]
    assert sorted(t for word in inside for t in word.tokens) == [3, 4, 5, 6]
    others = {word.text: word.tokens for word in prompt.words if word not in inside}
    assert others == {"a": (1,), "red": (2,), "circle": (7,), ",": (8,), "on": (9,), "grass": (10,)}
    assert read(demo.clip, text) == prompt  # vectors are loaded anew, and still the same tokens


def test_brackets_that_are_meant_as_such(demo):
    prompt = read(demo.clip, r"a cat \(tabby\) here")
    assert "tabby" in [word.text for word in prompt.words]


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=200).map(" ".join))
def test_any_prompt_is_covered(demo, text):
    prompt = read(demo.clip, text)
    flat = [
        entry for chunk in demo.clip.tokenize(text, return_word_ids=True)["l"] for entry in chunk
    ]
    owned = sorted(t for word in prompt.words for t in word.tokens)
    assert owned == [n for n, entry in enumerate(flat) if entry[2] != 0]


@settings(deadline=None, max_examples=30)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=120),
    replacement=st.sampled_from(["dog", "three big dogs", "🦊 fox"]),
)
def test_swapping_in_any_prompt_gives_one_column_for_every_token(demo, words, replacement):
    text = " ".join(words)
    source = read(demo.clip, text)
    word = next(word.text for word in source.words if split_words(word.text))
    (branch,) = build_controller(
        demo.clip, text, [(WordSwap(word, replacement),)]
    ).controller.branches
    assert branch.mapper.shape == (source.length, branch.edited.length)
    for span in branch.spans:
        for j in span.edited if span.source else ():
            assert (branch.mapper[:, list(branch.edited.words[j].tokens)].sum(0) > 0).all()


def test_prompts_whose_lengths_do_not_go_together(demo):
    """Two and three chunks need six; five, six and seven would need 210."""
    swaps = [(WordSwap("circle", "grass " * (75 * n)),) for n in range(8)]
    encoded = build_controller(demo.clip, "circle", swaps[2:4])
    assert encoded.controller.length == encoded.conditioning[0][0].shape[1] == 6 * 77
    with pytest.raises(ValueError, match=r"385, 462, 539 tokens, which meet at 16170 only"):
        build_controller(demo.clip, "circle", swaps[5:])


def test_a_text_encoder_that_makes_other_tokens(demo):
    """As NegPip does: two for each of the tokenizer's."""
    clip = demo.clip.clone()
    encode = clip.cond_stage_model.clip_l.encode_token_weights

    def doubled(tokens):
        cond, *rest = encode(tokens)
        return cond.repeat_interleave(2, 1), *rest

    clip.patcher.add_object_patch("clip_l.encode_token_weights", doubled)
    with pytest.raises(ValueError, match=r"tokenizer's 77, got 154\. .*take it off the CLIP"):
        build_controller(clip, "a red circle", [(WordSwap("circle", "star"),)])
    build_controller(demo.clip, "a red circle", [(WordSwap("circle", "star"),)])


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_source_prompt(demo, text):
    with pytest.raises(ValueError, match="Expected a source prompt with words in it"):
        build_controller(demo.clip, text, [(WordSwap("a", "b"),)])
