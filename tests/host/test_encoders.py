"""Words in the tokenizers of today: the host's own, before small encoders of random weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.flux as flux
import comfy.text_encoders.hidream as hidream
import comfy.text_encoders.hunyuan_video as hunyuan_video
import comfy.text_encoders.omnigen2 as omnigen2
import comfy.text_encoders.pixart_t5 as pixart_t5
import comfy.text_encoders.qwen_image as qwen_image
import comfy.text_encoders.sd3_clip as sd3_clip
import pytest
import torch
from text_tokenizers import llama, reader, tekken
from transformers import PreTrainedTokenizerFast

from p2p_core.controller import plan
from p2p_core.edits import Refine, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller, source_alone, stacked
from p2p_core.hosts.comfyui.texts import GLYPHS_KEY, LLAMA_KEY

PROMPT = "a fluffy cat sits on the wet grass, in the snow"
CLIP = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 64}
CLIP |= {"num_attention_heads": 2}
T5 = {"d_model": 64, "d_ff": 64, "d_kv": 32, "num_heads": 2, "num_layers": 2}
LLM = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 28}
LLM |= {"num_attention_heads": 2, "num_key_value_heads": 1}
OPTIONS = {
    "clip_l_model_config": CLIP,
    "clip_g_model_config": CLIP,
    "t5xxl_model_config": T5,
    "clip_t5xxl_model_config": T5,
    "qwen25_7b_model_config": LLM,
    "llama_model_config": {**LLM, "num_hidden_layers": 4},
    "qwen25_3b_model_config": LLM,
    "qwen3_2b_model_config": LLM,
    "qwen3_4b_model_config": LLM,
    "mistral3_24b_model_config": {**LLM, "num_hidden_layers": 31, "vocab_size": 2048},
}
FRONT = {"flux2": 512}
"""How many tokens a network fills texts up to in front."""


def z_image():
    import comfy.text_encoders.z_image as z_image

    return z_image.ZImageTokenizer, z_image.te()


def without_eyes(tokenizer, encoder):
    """An encoder of the host's that cuts templates off, on a language model that sees nothing."""
    import comfy.text_encoders.z_image as z_image

    class Encoder(encoder):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            comfy.sd1_clip.SD1ClipModel.__init__(
                self,
                device=device,
                dtype=dtype,
                name="qwen25_7b",
                clip_model=z_image.Qwen3_4BModel,
                model_options=model_options,
            )
            self.byt5_small = None

    return tokenizer, Encoder


def hunyuan_image():
    import comfy.text_encoders.hunyuan_image as hunyuan_image

    return without_eyes(hunyuan_image.HunyuanImageTokenizer, hunyuan_image.HunyuanImageTEModel)


def longcat():
    import comfy.text_encoders.longcat_image as longcat_image

    return without_eyes(longcat_image.LongCatImageTokenizer, longcat_image.LongCatImageTEModel)


def ovis():
    import comfy.text_encoders.ovis as ovis

    return ovis.OvisTokenizer, ovis.te()


def with_llama(make):
    """A tokenizer of the host's, whose Llama is a small one where its files are not in the host."""

    class Llama(comfy.sd1_clip.SDTokenizer):
        def __init__(self, min_length=256, pad_token=128258, **named):
            with TemporaryDirectory() as folder:
                llama(folder)
                super().__init__(
                    folder,
                    pad_with_end=False,
                    embedding_key="llama",
                    tokenizer_class=PreTrainedTokenizerFast,
                    has_end_token=False,
                    pad_to_max_length=False,
                    max_length=99999999,
                    pad_token=pad_token,
                    min_length=min_length,
                    **named,
                )

    def made(**named):
        if (Path(hunyuan_video.__file__).parent / "llama_tokenizer").is_dir():
            return make(**named)
        with patch.object(hunyuan_video, "LLAMA3Tokenizer", Llama):
            return make(**named)

    return made


def hunyuan():
    model = hunyuan_video.hunyuan_video_clip(dtype_llama=torch.float32)
    return with_llama(hunyuan_video.HunyuanVideoTokenizer), model


def hidream_i1():
    model = hidream.hidream_clip(dtype_t5=torch.float32, dtype_llama=torch.float32)
    return with_llama(hidream.HiDreamTokenizer), model


ENCODERS = {
    "flux": lambda: (flux.FluxTokenizer, flux.flux_clip(dtype_t5=torch.float32)),
    "sd3": lambda: (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(dtype_t5=torch.float32)),
    "chroma": lambda: (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
    "qwen-image": lambda: without_eyes(qwen_image.QwenImageTokenizer, qwen_image.QwenImageTEModel),
    "omnigen2": lambda: (omnigen2.Omnigen2Tokenizer, omnigen2.te()),
    "hunyuan-video": hunyuan,
    "hunyuan-image": hunyuan_image,
    "longcat": longcat,
    "ovis": ovis,
    "z-image": z_image,
    "klein": lambda: (flux.KleinTokenizer, flux.klein_te()),
    "flux2": lambda: (flux.Flux2Tokenizer, flux.flux2_te()),
}


@pytest.fixture(scope="module", params=ENCODERS)
def clip(request):
    try:
        tokenizer, model = {**ENCODERS, "hidream": hidream_i1}[request.param]()
    except (AttributeError, ImportError):
        pytest.skip(f"this ComfyUI has no text encoder of {request.param}")
    target = SimpleNamespace(params={}, clip=model, tokenizer=tokenizer)
    width = 4096 if request.param == "sd3" else T5["d_model"]  # beside CLIP's, it must be its own
    options = {**OPTIONS, "t5xxl_model_config": {**T5, "d_model": width}}
    clip = comfy.sd.CLIP(
        target,
        tokenizer_data={"tekken_model": tekken()},
        model_options={**options, "dtype": torch.float32},
    )
    clip.front = FRONT.get(request.param, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.cond_stage_model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return clip


def encoded_alone(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def said(clip, word):
    """What a word's tokens spell, by the first tokenizer that knows them."""
    own = clip.tokenizer
    names = [n for n in vars(own) if hasattr(getattr(own, n), "tokenizer")]
    spelled = []
    for name in names:
        try:
            spelled.append(getattr(own, name).tokenizer.decode(list(word.ids)).strip())
        except (TypeError, IndexError, OverflowError, ValueError):
            continue
    return spelled


@torch.inference_mode()
def test_words_are_found_and_rows_are_the_encoders_own(clip):
    swap = (WordSwap("cat", "tortoiseshell kitten"),)
    refine = (Refine(PROMPT.replace("wet", "very wet") + " at night"),)
    encoded = build_controller(clip, PROMPT, [swap, refine])
    ((cond, _),) = encoded.conditioning
    controller = encoded.controller
    assert cond.shape[:2] == (3, controller.length)
    for row, prompt in zip(cond, controller.prompts, strict=True):
        alone = encoded_alone(clip, prompt.text)[0]
        before = max(0, clip.front - len(alone))
        text = slice(before, before + len(alone))
        assert torch.equal(row[text], alone)
        assert not row[: text.start].any()
        behind = row[text.stop :]
        assert torch.allclose(behind, alone.mean(0).expand_as(behind))
        assert text.stop == prompt.length
        for word in prompt.words:
            assert word.tokens
            if clip.front or len(prompt.parts) == 1:
                assert any(word.text in one for one in said(clip, word)), word
                assert all(token in range(text.start, text.stop) for token in word.tokens)
    assert torch.equal(source_alone(encoded)[0][0], encoded_alone(clip, PROMPT))


@torch.inference_mode()
def test_the_mapper_takes_words_to_their_counterparts(clip):
    """In every sequence of tokens that stands in the conditioning."""
    encoded = build_controller(clip, PROMPT, [(WordSwap("cat", "dog"),)])
    source, branch = encoded.controller.source, encoded.controller.branches[0]
    for old, new in (("cat", "dog"), ("wet", "wet"), ("snow", "snow")):
        rows, columns = source.tokens_of(old), branch.edited.tokens_of(new)
        whole = branch.mapper[rows][:, columns]
        assert whole.sum() == pytest.approx(len(rows))
        assert branch.mapper[rows].sum() == pytest.approx(len(rows))


@pytest.mark.parametrize("clip", ["hidream"], indirect=True)
@torch.inference_mode()
def test_words_stand_in_each_text_of_hidream(clip):
    """T5's, and twice Llama's: its last layer's and each block's own."""
    encoded = build_controller(clip, PROMPT, [(WordSwap("cat", "tortoiseshell kitten"),)])
    ((cond, extra),) = encoded.conditioning
    assert cond.shape[:2] == (2, 128)
    assert extra[LLAMA_KEY].shape[0] == 2
    assert extra[LLAMA_KEY].shape[-2] == 128
    assert encoded.controller.length == 3 * 128
    for prompt in encoded.controller.prompts:
        for word in prompt.words:
            texts = [[t % 128 for t in word.tokens if t // 128 == part] for part in range(3)]
            assert all(texts)
            assert texts[1] == texts[2]
        for key, part in (("t5xxl", 0), ("llama", 1)):
            (ids,) = clip.tokenize(prompt.text)[key]
            tokenizer = getattr(clip.tokenizer, key).tokenizer
            for word in prompt.words:
                own = [ids[t % 128][0] for t in word.tokens if t // 128 == part]
                assert word.text in tokenizer.decode(own)


@pytest.mark.parametrize("clip", ["hunyuan-image"], indirect=True)
@torch.inference_mode()
def test_quoted_text_is_among_the_words(clip):
    """Beside that, another encoder reads it, whose tokens stand elsewhere."""
    encoded = build_controller(clip, 'a sign "open" on the door', [(WordSwap("door", "gate"),)])
    edited = encoded.controller.branches[0].edited
    assert edited.text == 'a sign "open" on the gate'
    assert all(any(word.text in one for one in said(clip, word)) for word in edited.words)
    assert encoded.conditioning[0][0].shape[1] == encoded.controller.length


def test_quoted_text_of_other_lengths_is_refused():
    controller = plan("a sign", [(WordSwap("sign", "door"),)], reader())
    texts = [torch.zeros(1, controller.length, 8)] * 2

    def entries(*lengths):
        glyphs = [{} if n is None else {GLYPHS_KEY: torch.zeros(1, n, 4)} for n in lengths]
        return [list(entry) for entry in zip(texts, glyphs, strict=True)]

    assert stacked(entries(3, 3), controller)[1][GLYPHS_KEY].shape == (2, 3, 4)
    for lengths in ((3, 4), (None, 3), (3, None)):
        with pytest.raises(ValueError, match="equally long text in quotation marks"):
            stacked(entries(*lengths), controller)


@pytest.mark.parametrize("clip", ["hidream"], indirect=True)
@torch.inference_mode()
def test_texts_of_hidream_that_are_filled_up_to_other_lengths_are_refused(clip):
    longer = "a cat " + "and a dog " * 20
    with pytest.raises(ValueError, match="equally many tokens in an encoder whose text stands"):
        build_controller(clip, PROMPT, [(Refine(longer),)])
