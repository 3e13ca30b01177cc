"""Whole sampling runs on the real host against explicit attention maps.

The maps are edited as the paper writes it.
"""

import comfy.sample
import pytest
import torch
from oracle import explicit_maps, output_of
from runs import PROMPT, Settings, relative

from p2p_core.alignment import mapper
from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks
from p2p_core.hosts.comfyui.prompts import read
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.lab.meter import peak_memory
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
STEPS = 5


def oracle(demo, latent, mapping, cross_steps, self_steps, settings, foreign=None, reach=1.0):
    """Source and edited row with maps made, edited and multiplied in the open.

    Steps are counted (Euler).
    """
    texts = [demo.encode(PROMPT)[0][0], demo.encode(PROMPT.replace("circle", "big star"))[0][0]]
    model = demo.model.clone()
    seen = {"calls": 0, "first": None}

    def step(key):
        seen["first"] = seen["first"] or key
        seen["calls"] += key == seen["first"]
        return seen["calls"] - 1

    def attn2(key):
        def replaced(q, k, v, extra):
            maps = explicit_maps(q, k, extra["n_heads"])
            if step(key) < cross_steps:
                chunk = maps.shape[0] // len(extra["cond_or_uncond"])
                start = extra["cond_or_uncond"].index(0) * chunk
                maps[start + 1] = maps[start] @ mapping
            out = output_of(maps, v)
            return out if foreign is None else out + foreign(q)

        return replaced

    def attn1(q, k, v, extra):
        maps = explicit_maps(q, k, extra["n_heads"])
        side = (q.shape[1] / latent["samples"][0, 0].numel()) ** 0.5
        if (
            seen["calls"] - (seen["first"] is not None and seen["done"]()) < self_steps
            and side <= reach
        ):
            chunk = maps.shape[0] // len(extra["cond_or_uncond"])
            start = extra["cond_or_uncond"].index(0) * chunk
            maps[start + 1] = maps[start]
        return output_of(maps, v)

    blocks = cross_attention_blocks(model)
    # attn1 of the first block runs before its attn2 counts the step
    seen["done"] = lambda: seen["in_step"]
    seen["in_step"] = False

    def track(executor, *args, **kwargs):
        seen["in_step"] = False
        return executor(*args, **kwargs)

    def counted(key):
        inner = attn2(key)

        def replaced(q, k, v, extra):
            out = inner(q, k, v, extra)
            seen["in_step"] = True
            return out

        return replaced

    from comfy.patcher_extension import WrappersMP

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "oracle", track)
    for block in blocks:
        model.set_model_attn2_replace(counted(block), *block)
        model.set_model_attn1_replace(attn1, *block)
    noise = comfy.sample.prepare_noise(latent["samples"], settings.seed).repeat(2, 1, 1, 1)
    return comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.cfg,
        "euler",
        settings.scheduler,
        [[torch.cat(texts), {}]],
        demo.encode(""),
        latent["samples"].repeat(2, 1, 1, 1),
        disable_pbar=True,
        seed=settings.seed,
    )


@pytest.fixture
def chain():
    def make(cross_steps, self_steps, reach=1.0):
        cross, own = Window(0, cross_steps / STEPS), Window(0, self_steps / STEPS)
        return (
            WordSwap(
                "circle",
                "big star",
                schedule=Schedule(cross),
                self_injection=SelfInjection(own, reach),
            ),
        )

    return make


def mapping_of(demo, chain):
    (branch,) = build_controller(demo.clip, PROMPT, [chain]).controller.branches
    return mapper(read(demo.clip, PROMPT), branch.edited, branch.spans)


@pytest.mark.parametrize(
    ("cross_steps", "self_steps", "reach"), [(5, 5, 1.0), (4, 2, 1.0), (3, 0, 1.0), (0, 3, 0.5)]
)
def test_sampling_equals_explicit_maps(cross_steps, self_steps, reach, demo, p2p, chain, latent):
    edit = chain(cross_steps, self_steps, reach)
    source, edited = p2p([edit], latent, Settings(steps=STEPS))
    expected = oracle(
        demo,
        latent,
        mapping_of(demo, edit),
        cross_steps,
        self_steps,
        Settings(steps=STEPS),
        reach=reach,
    )
    assert relative(source, expected[:1]) <= TOLERANCE
    assert relative(edited, expected[1:]) <= TOLERANCE


def test_self_attention_with_another_extensions_patch_there(demo, p2p, chain, latent):
    """Such as token merging: ours comes before it, and the result is the same."""
    seen = []

    def patch(n, context, value, extra):
        seen.append(n.shape)
        return n, context, value

    model = demo.model.clone()
    model.set_model_attn1_patch(patch)
    edit = chain(4, 2)
    source, edited = p2p([edit], latent, Settings(steps=STEPS), model=model)
    expected = oracle(demo, latent, mapping_of(demo, edit), 4, 2, Settings(steps=STEPS))
    assert relative(source, expected[:1]) <= TOLERANCE
    assert relative(edited, expected[1:]) <= TOLERANCE
    assert len(seen) == STEPS * len(cross_attention_blocks(model))


def test_an_attention_override_of_another_extension_keeps_working(demo, p2p, chain, latent):
    """Such as a quantised attention: it is called for every layer, with the edit in its inputs."""
    calls = []

    def theirs(attention, *args, **named):
        calls.append(args[0].shape)
        return attention(*args, **named)

    model = demo.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = theirs
    edit = chain(4, 2)
    plain = p2p([edit], latent, Settings(steps=STEPS))
    source, edited = p2p([edit], latent, Settings(steps=STEPS), model=model)
    assert torch.equal(source, plain[0])
    assert torch.equal(edited, plain[1])
    assert len(calls) >= 2 * STEPS * len(cross_attention_blocks(model))


def test_an_attention_replacement_of_another_extension_keeps_working(demo, p2p, chain, latent):
    """An image prompt's, say, adds its own attention to every row, and finds the edit under it."""
    added = torch.randn(1, 1, 1, generator=torch.Generator().manual_seed(1))

    def foreign(q):
        return 0.3 * torch.tanh(q) + added

    def replaced(q, k, v, extra):
        return output_of(explicit_maps(q, k, extra["n_heads"]), v) + foreign(q)

    model = demo.model.clone()
    for name, number, _ in cross_attention_blocks(model):
        model.set_model_attn2_replace(replaced, name, number)
    edit = chain(4, 2)
    source, edited = p2p([edit], latent, Settings(steps=STEPS), model=model)
    expected = oracle(
        demo, latent, mapping_of(demo, edit), 4, 2, Settings(steps=STEPS), foreign=foreign
    )
    assert relative(source, expected[:1]) <= TOLERANCE
    assert relative(edited, expected[1:]) <= TOLERANCE


def test_an_edit_stores_no_attention_maps(demo):
    """Peak memory stays within 5 % of the stock run's with as many images.

    Maps would more than double it.
    """
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    swap = WordSwap("circle", "star", schedule=Schedule(), self_injection=SelfInjection(Window()))
    encoded = build_controller(demo.clip, PROMPT, [(swap,)])
    settings = {"seed": 0, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    positive = [[torch.cat([demo.encode(text)[0][0] for text in (PROMPT, PROMPT)]), {}]]
    batch = latent["samples"].repeat(2, 1, 1, 1)

    def stock():
        noise = comfy.sample.prepare_noise(batch, 0)
        names = ("euler", "normal")
        comfy.sample.sample(
            demo.model,
            noise,
            2,
            3.0,
            *names,
            positive,
            demo.encode(""),
            batch,
            disable_pbar=True,
            seed=0,
        )

    def ours():
        sample(demo.model, encoded, negative=demo.encode(""), latent=latent, **settings)

    stock()
    assert peak_memory(ours) <= 1.05 * peak_memory(stock)
