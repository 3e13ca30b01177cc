"""Word weights without an edit, sampled by the stock sampler."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from oracle import explicit_maps, output_of
from runs import PROMPT, Settings, relative
from text_tokenizers import reader
from transformers_of_the_host import FAMILIES, built, entries, random

import nodes
from p2p_core.controller import plan
from p2p_core.edits import Reweight, SelfInjection
from p2p_core.hosts.comfyui.attention import attach
from p2p_core.hosts.comfyui.conditioning import PAYLOAD_KEY, Payload
from p2p_core.hosts.comfyui.weighting import weigh
from p2p_core.schedules import Schedule, Window

WEIGHED = "a (red:0.5) circle on the (grass:2)"


def sampled(model, positive, demo, latent, cfg=3.0):
    return nodes.common_ksampler(
        model, 0, 4, cfg, "euler", "normal", positive, demo.encode(""), latent
    )[0]["samples"]


@torch.inference_mode()
def test_factors_of_one_are_the_stock_run(demo, latent, stock):
    for text, words in (("a (red:1.0) circle on the (grass:1)", ()), (PROMPT, (("red", 1.0),))):
        model, positive = weigh(demo.model, demo.clip, text, words)
        assert model is demo.model
        expected = stock(PROMPT, latent, Settings(steps=4))
        assert torch.equal(sampled(model, positive, demo, latent), expected)


@torch.inference_mode()
def test_brackets_never_reach_the_encoder(demo):
    _, positive = weigh(demo.model, demo.clip, WEIGHED)
    assert torch.equal(positive[0][0], demo.encode(PROMPT)[0][0])


@pytest.mark.parametrize("images", [1, 2])
@torch.inference_mode()
def test_on_a_unet_maps_are_multiplied(demo, images):
    latent = {"samples": torch.zeros(images, 4, 16, 16)}
    model, positive = weigh(demo.model, demo.clip, WEIGHED)
    factors = torch.ones(77)
    factors[2], factors[6] = 0.5, 2.0

    def attn2(q, k, v, extra):
        maps = explicit_maps(q, k, extra["n_heads"])
        rows = len(q) // len(extra["cond_or_uncond"])
        start = extra["cond_or_uncond"].index(0) * rows
        maps[start : start + rows] *= factors
        return output_of(maps, v)

    patched = demo.model.clone()
    for block in ("input", "middle", "output"):
        for number in range(12):
            patched.set_model_attn2_replace(attn2, block, number)
    expected = sampled(patched, demo.encode(PROMPT), demo, latent)
    ours = sampled(model, positive, demo, latent)
    assert relative(ours, expected) <= 1e-5
    assert relative(ours, sampled(demo.model, demo.encode(PROMPT), demo, latent)) > 1e-3


@torch.inference_mode()
def test_several_of_one_word_and_words_beside(demo):
    text = "a cat, a (cat:2) and a (big \\(cat\\):0.5)"
    _, positive = weigh(demo.model, demo.clip, text, (("cat #1", 3.0),))
    controller = positive[0][1][PAYLOAD_KEY].controller
    assert controller.source.text == "a cat, a cat and a big \\(cat\\)"
    (moment,) = controller.at(0.0, controller.length)
    equalizer = moment.map_edit.equalizer
    first, second, third = (controller.source.tokens_of(f"cat #{n}")[0] for n in (1, 2, 3))
    assert equalizer[[first, second, third]].tolist() == [3.0, 2.0, 0.5]


@torch.inference_mode()
def test_another_model_is_refused(demo, latent):
    _, positive = weigh(demo.model, demo.clip, WEIGHED)
    with pytest.raises(ValueError, match="Connect both outputs of the same node"):
        sampled(demo.model, positive, demo, latent)


@torch.inference_mode()
def test_a_word_that_is_not_there_is_named(demo):
    with pytest.raises(ValueError, match="'blue' is not in the prompt"):
        weigh(demo.model, demo.clip, PROMPT, (("blue", 2.0),))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@torch.inference_mode()
def test_in_joint_attention_factors_act_before_the_softmax(cfg):
    family = FAMILIES["auraflow"]
    model = built(family)
    edit = Reweight((("cat", 2.5), ("wet", 0.0)), Schedule(), SelfInjection(Window(0, 0)))
    controller = plan("a cat on the wet grass", [(edit,)], reader(window=12))
    tokens, (cond, extra) = controller.length, entries(family, 1, controller.length, 3)[0]
    bias = torch.zeros(tokens)
    bias[controller.source.tokens_of("cat")] = torch.tensor(2.5).log()
    bias[controller.source.tokens_of("wet")] = -torch.inf
    shape = (2, 4, *family.size)

    def attention(func, q, k, v, heads, mask=None, *args, **named):
        kind = named["transformer_options"]["cond_or_uncond"]
        if q.shape[-2] > tokens + 1 and 0 in kind and k.shape[-2] == 8 + tokens + 24:
            rows = len(q) // len(kind)
            start = kind.index(0) * rows
            mask = torch.zeros(len(q), 1, q.shape[-2], k.shape[-2])
            mask[start : start + rows, :, 8 + tokens :, 8 : 8 + tokens] = bias
        return func(q, k, v, heads, mask, *args, **named)

    def run(patched, positive):
        return comfy.sample.sample(
            patched,
            random(*shape, seed=6),
            3,
            cfg,
            "euler",
            "simple",
            positive,
            entries(family, 1, 5, 11),
            torch.zeros(shape),
            disable_pbar=True,
        )

    theirs = model.clone()
    theirs.model_options["transformer_options"]["optimized_attention_override"] = attention
    expected = run(theirs, [[cond, extra]])
    ours = run(attach(model), [[cond, {**extra, PAYLOAD_KEY: Payload(controller, None)}]])
    assert relative(ours, expected) <= 1e-5
