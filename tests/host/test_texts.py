"""Text that a network makes itself, as Anima's does: prompt by prompt, like the stock run's."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.sample
import comfy.sd
import pytest
import torch
from runs import relative
from transformers_of_the_host import FAMILIES, WIDTH, built, known

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller, source_alone
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.hosts.comfyui.weighting import weigh
from p2p_core.schedules import Schedule, Window

PROMPT = "a fluffy cat sits on the wet grass, in the snow"
NEVER = {"schedule": Schedule(Window(0, 0)), "self_injection": SelfInjection(Window(0, 0))}
SETTINGS = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
LATENT = {"samples": torch.zeros(1, 16, 1, 8, 12)}


@pytest.fixture(scope="module")
def model():
    return built(known(FAMILIES["anima"]))


@pytest.fixture(scope="module")
def clip(model):
    import comfy.text_encoders.anima as anima

    small = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    target = SimpleNamespace(params={}, clip=anima.te(), tokenizer=anima.AnimaTokenizer)
    options = {"qwen3_06b_model_config": small, "dtype": torch.float32}
    clip = comfy.sd.CLIP(target, model_options=options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.cond_stage_model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return clip


def encoded_alone(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def run(model, clip, positive):
    """The host's own run."""
    latent = LATENT["samples"]
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, SETTINGS["seed"]),
        SETTINGS["steps"],
        SETTINGS["cfg"],
        SETTINGS["sampler_name"],
        SETTINGS["scheduler"],
        positive,
        encoded_alone(clip, "blurry"),
        latent,
        disable_pbar=True,
        seed=SETTINGS["seed"],
    )


@torch.inference_mode()
def test_words_are_those_of_the_tokens_that_the_text_is_made_of(clip):
    encoded = build_controller(clip, PROMPT, [(WordSwap("cat", "tortoiseshell kitten"),)])
    tokens = clip.tokenizer.t5xxl.tokenizer
    for prompt in encoded.controller.prompts:
        assert prompt.length == 512
        for word in prompt.words:
            assert word.text in tokens.decode(list(word.ids))
    ids = encoded_alone(clip, PROMPT)[0][1]["t5xxl_ids"].tolist()
    (word,) = (word for word in encoded.controller.source.words if word.text == "fluffy")
    assert [ids[t] for t in word.tokens] == list(word.ids)


@torch.inference_mode()
def test_each_row_is_the_stock_run_of_its_own_text(model, clip):
    """Though texts have other numbers of tokens, in both tokenizers."""
    swap = WordSwap("cat", "tortoiseshell kitten", **NEVER)
    encoded = build_controller(clip, PROMPT, [(swap,)])
    texts = [prompt.text for prompt in encoded.controller.prompts]
    negative = encoded_alone(clip, "blurry")
    result = sample(model, encoded, negative=negative, latent=LATENT, **SETTINGS)
    expected = [run(model, clip, encoded_alone(clip, text)) for text in texts]
    assert relative(expected[0], expected[1]) > 1e-3
    assert relative(result.source["samples"], expected[0]) <= 1e-5
    assert relative(result.edited["samples"], expected[1]) <= 1e-5


@torch.inference_mode()
def test_the_source_alone_is_the_encoders_own(clip):
    encoded = build_controller(clip, PROMPT, [(WordSwap("cat", "dog"),)])
    ((cond, extra),) = source_alone(encoded)
    ((own, theirs),) = encoded_alone(clip, PROMPT)
    assert torch.equal(cond, own)
    assert torch.equal(extra["t5xxl_ids"], theirs["t5xxl_ids"])


@torch.inference_mode()
def test_weights_of_words_multiply_their_columns(model, clip):
    words = build_controller(clip, PROMPT, []).controller.source
    factors = torch.ones(words.length, 1)
    factors[words.tokens_of("cat")] = 3.0

    def multiplied(func, q, k, v, heads, *args, **named):
        kinds = named["transformer_options"]["cond_or_uncond"]
        if k.shape[-2] == words.length:
            rows = len(v) // len(kinds)
            v = v.clone()
            for place in (n for n, kind in enumerate(kinds) if kind == 0):
                v[place * rows : (place + 1) * rows] *= factors
        return func(q, k, v, heads, *args, **named)

    by_hand = model.clone()
    by_hand.model_options["transformer_options"]["optimized_attention_override"] = multiplied
    weighed, positive = weigh(model, clip, PROMPT, [("cat", 3.0)])
    expected = run(by_hand, clip, encoded_alone(clip, PROMPT))
    assert relative(run(weighed, clip, positive), expected) <= 1e-5
    assert relative(expected, run(model, clip, encoded_alone(clip, PROMPT))) > 1e-3
