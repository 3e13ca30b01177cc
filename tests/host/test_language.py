"""Refine, reweight, windows of single words and many edits at once, whole runs on the host.

Against explicit attention maps, edited as the paper writes it.
"""

import comfy.sample
import pytest
import torch
from oracle import explicit_maps, output_of
from runs import PROMPT, Settings, relative

from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
NO_SELF = SelfInjection(Window(0, 0))
SETTINGS = Settings(steps=5)


def oracle(demo, latent, texts, edit):
    """Source and edited row; `edit(source map, edited map, step)` gives the edited row's map."""

    def attn2(q, k, v, extra):
        maps = explicit_maps(q, k, extra["n_heads"])
        step = int((extra["sample_sigmas"] - extra["sigmas"][0]).abs().argmin())
        row = extra["cond_or_uncond"].index(0) * 2
        maps[row + 1] = edit(maps[row].clone(), maps[row + 1].clone(), step)
        return output_of(maps, v)

    model = demo.model.clone()
    for block in cross_attention_blocks(model):
        model.set_model_attn2_replace(attn2, *block)
    noise = comfy.sample.prepare_noise(latent["samples"], SETTINGS.seed).repeat(2, 1, 1, 1)
    encoded = [demo.encode(text)[0][0] for text in texts]
    tokens = max(cond.shape[1] for cond in encoded)
    positive = [[torch.cat([c.repeat(1, tokens // c.shape[1], 1) for c in encoded]), {}]]
    return comfy.sample.sample(
        model,
        noise,
        SETTINGS.steps,
        SETTINGS.cfg,
        "euler",
        "normal",
        positive,
        demo.encode(""),
        latent["samples"].repeat(2, 1, 1, 1),
        disable_pbar=True,
        seed=SETTINGS.seed,
    )


def agrees(result, expected):
    assert relative(result[0], expected[:1]) <= TOLERANCE
    assert relative(result[1], expected[1:]) <= TOLERANCE


def test_reweight_alone(demo, p2p, latent):
    """a red circle on the grass: tokens 1 to 6."""

    def edit(source, edited, step):
        source[..., 2] *= 2.5
        source[..., 6] *= -1.5
        return source

    chain = (Reweight((("red", 2.5), ("grass", -1.5)), self_injection=NO_SELF),)
    agrees(p2p([chain], latent, SETTINGS), oracle(demo, latent, [PROMPT, PROMPT], edit))


def test_reweight_alone_renormalised(demo, p2p, latent):
    """As if log 2.5 and log 0 had been added before the softmax."""

    def edit(source, edited, step):
        source[..., 2] *= 2.5
        source[..., 6] *= 0
        return source / source.sum(-1, keepdim=True)

    factors = (("red", 2.5), ("grass", 0.0))
    chain = (Reweight(factors, self_injection=NO_SELF, renormalised=True),)
    expected = oracle(demo, latent, [PROMPT, PROMPT], edit)
    agrees(p2p([chain], latent, SETTINGS), expected)
    paper = (Reweight(factors, self_injection=NO_SELF),)
    assert relative(p2p([paper], latent, SETTINGS)[1], expected[1:]) > 1e-2


def test_refine_then_reweight_with_the_injections_window(demo, p2p, latent):
    text = "a big red circle on the grass"

    def edit(source, edited, step):
        if step >= 3:
            return edited
        new = torch.cat([source[..., :2], edited[..., 2:3], source[..., 2:7]], dim=-1)
        new[..., 2] *= 2.0
        rest = mapping(demo, text)
        return torch.cat([new, (source @ rest)[..., 8:]], dim=-1)

    chain = (
        Refine(text, schedule=Schedule(Window(0, 0.6)), self_injection=NO_SELF),
        Reweight((("big", 2.0),)),
    )
    agrees(p2p([chain], latent, SETTINGS), oracle(demo, latent, [PROMPT, text], edit))


def mapping(demo, text):
    (branch,) = build_controller(demo.clip, PROMPT, [(Refine(text),)]).controller.branches
    return branch.mapper


def test_two_chunks_with_prompt_weights(demo, p2p, latent):
    """Token for token through both chunks, "sand" turned up in each of them."""
    text = "a (red:1.3) circle on the (grass:0.8)" + ", by the sand" * 25
    flat = [token for chunk in demo.clip.tokenize(text)["l"] for token, _ in chunk]
    sand = [n for n, token in enumerate(flat) if token == demo.clip.tokenize("sand")["l"][0][1][0]]
    assert len(flat) == 154
    assert min(sand) < 77 < max(sand)

    def edit(source, edited, step):
        source[..., sand] *= 1.5
        return source if step < 3 else edited

    chain = (
        WordSwap("circle", "star", schedule=Schedule(Window(0, 0.6)), self_injection=NO_SELF),
        Reweight((("sand", 1.5),)),
    )
    texts = [text, text.replace("circle", "star")]
    agrees(p2p([chain], latent, SETTINGS, prompt=text), oracle(demo, latent, texts, edit))


def test_one_chunk_refined_to_two(demo, p2p, latent):
    """The source's tokens stand in the batch twice; both copies' attention is theirs."""
    text = PROMPT + ", by the sand" * 25
    matrix = mapping(demo, text)
    assert matrix.shape == (77, 154)
    new = matrix.sum(0) == 0
    assert new[7:75].all()
    assert torch.equal(matrix[1:7, 1:7], torch.eye(6))

    def edit(source, edited, step):
        once = source[..., :77] + source[..., 77:]
        return torch.where(new, edited, once @ matrix)

    chain = (Refine(text, schedule=Schedule(), self_injection=NO_SELF),)
    agrees(p2p([chain], latent, SETTINGS), oracle(demo, latent, [PROMPT, text], edit))


def test_one_words_attention_alone(demo, p2p, latent):
    """ "circle: 0-1", everything else never: the paper's figure 5."""

    def edit(source, edited, step):
        edited[..., 3] = source[..., 3]
        return edited

    schedule = Schedule(Window(0, 0), (("circle", Window()),))
    chain = (WordSwap("red", "blue", schedule=schedule, self_injection=NO_SELF),)
    texts = [PROMPT, PROMPT.replace("red", "blue")]
    agrees(p2p([chain], latent, SETTINGS), oracle(demo, latent, texts, edit))


def test_a_soft_end(demo, p2p, latent):
    """A fade over the second half: α = 1, 1, 1, 0.8, 0.4 in five steps."""

    def edit(source, edited, step):
        alpha = min(1.0, (1 - step / 5) / 0.5)
        return alpha * source + (1 - alpha) * edited

    schedule = Schedule(Window(0, 1, fade=0.5))
    chain = (WordSwap("circle", "star", schedule=schedule, self_injection=NO_SELF),)
    texts = [PROMPT, PROMPT.replace("circle", "star")]
    agrees(p2p([chain], latent, SETTINGS), oracle(demo, latent, texts, edit))


def test_eight_edits_of_two_sources_are_as_each_by_itself(p2p):
    chains = [
        (WordSwap("circle", "star"),),
        (WordSwap("red", "blue"), Reweight((("blue", 2.0),))),
        (Refine("a red circle and a blue star on the grass"),),
        (Refine("a circle on grass", inject_swapped=False),),
        (Reweight((("grass", 0.0),)),),
        (WordSwap("grass", "sand"),),
        (Refine("a red circle on the grass" + " at night" * 40),),
        (WordSwap("red", ""),),
    ]
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    source, edited = p2p(chains, latent, SETTINGS)
    for n, chain in enumerate(chains):
        one, alone = p2p([chain], latent, SETTINGS)
        assert relative(one, source) <= ACROSS_BATCHES
        assert relative(alone, edited[2 * n : 2 * n + 2]) <= ACROSS_BATCHES


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral", "uni_pc"])
def test_windows_are_where_they_are_however_often_a_sampler_calls(sampler, p2p, latent):
    """A window over the whole run and two that meet in its middle do the same."""
    settings = Settings(sampler_name=sampler, steps=6)

    def run(*windows):
        chain = tuple(
            Reweight((("red", 3.0),), Schedule(window), SelfInjection(Window(0, 1)))
            for window in windows
        )
        return p2p([chain], latent, settings)[1]

    whole, halves = run(Window()), run(Window(0, 0.5), Window(0.5, 1))
    assert relative(halves, whole) <= TOLERANCE
    assert relative(run(Window(0, 0.5)), whole) > 1e-3


def test_denoise_below_one_has_windows_of_its_own_steps(p2p, stock, demo):
    image = stock(PROMPT, {"samples": torch.zeros(1, 4, 16, 16)}, SETTINGS)
    settings = Settings(steps=4, denoise=0.5)
    swap = WordSwap("circle", "star", schedule=Schedule(Window(0, 0.5)), self_injection=NO_SELF)
    never = WordSwap("circle", "star", schedule=Schedule(Window(0, 0)), self_injection=NO_SELF)
    late = WordSwap("circle", "star", schedule=Schedule(Window(0.5, 1)), self_injection=NO_SELF)
    _, edited = p2p([(swap,), (never,), (late,)], {"samples": image}, settings)
    assert relative(edited[:1], edited[1:2]) > 1e-4
    assert relative(edited[2:], edited[1:2]) > 1e-5
    assert relative(edited[:1], edited[2:]) > 1e-5
