"""Edits in diffusers: beside its own pipelines, with its schedulers, and what is refused."""

from __future__ import annotations

from copy import copy
from functools import wraps
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from oracle import edited_maps, explicit_maps, output_of, self_edited_maps
from runs import PROMPT, relative

from p2p_core.calls import CallEdits, Held
from p2p_core.controller import Rows, plan
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.diffusers.attention import (
    Processor,
    attached,
    cross_attention_sides,
    project_in,
    project_out,
)
from p2p_core.hosts.diffusers.inverting import invert
from p2p_core.hosts.diffusers.kinds import known
from p2p_core.hosts.diffusers.pipeline import Model
from p2p_core.hosts.diffusers.sampling import sample
from p2p_core.hosts.diffusers.settings import SAMPLERS, Settings
from p2p_core.hosts.diffusers.viewing import sample_and_look
from p2p_core.inversion.methods import METHODS, Options
from p2p_core.inversion.null_text import Schedule as NullTexts
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window
from p2p_core.tokens import split_words
from p2p_core.viewing import Viewing

BLANK = torch.zeros(1, 4, 16, 16)
SWAP = WordSwap("circle", "star")
SAME = WordSwap("circle", "circle")
TOLERANCE, ACROSS_BATCHES = 1e-5, 5e-5


def run(model, *chains, latent=BLANK, settings=None, **more):
    settings = settings or Settings(4, 3.0)
    return sample(model, PROMPT, chains, latent, settings, quiet=True, **more)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler])
def test_the_source_is_the_stock_pipelines(kind, model):
    """With diffusers' own scheduler, timesteps and initial noise."""
    config = model.pipeline.scheduler.config
    options = {"clip_sample": False, "set_alpha_to_one": True} if kind is DDIMScheduler else {}
    scheduler = kind.from_config(config, **options)
    stock = model.pipeline
    own, stock.scheduler = stock.scheduler, scheduler
    noise = torch.randn(BLANK.shape, generator=torch.Generator().manual_seed(5))
    try:
        theirs = stock(
            PROMPT,
            negative_prompt="bad",
            num_inference_steps=4,
            guidance_scale=3.0,
            latents=noise.clone(),
            output_type="latent",
            height=128,
            width=128,
        ).images
    finally:
        stock.scheduler = own
    again = kind.from_config(config, **options)
    settings = Settings(4, 3.0, scheduler=again)
    ours = run(model, (SWAP,), settings=settings, negative="bad", noise=noise)
    assert relative(ours.source * model.scale, theirs) <= ACROSS_BATCHES


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_identities_with_every_sampler(sampler, demo):
    """An edit that changes nothing is the source; a swap is not."""
    result = run(demo, (SAME,), (SWAP,), settings=Settings(4, 3.0, sampler))
    same, swapped = result.edited.split(1)
    assert relative(same, result.source) <= TOLERANCE
    assert relative(swapped, result.source) > 1e-2
    assert torch.isfinite(result.edited).all()


def test_the_whole_language_on_every_architecture(model):
    left = torch.ones(1, 16, 16)
    left[..., 12:] = 0
    chain = (
        Refine("a big red star on the grass, at night"),
        Reweight((("red", 2.0),)),
        LocalBlend(("circle",), ("star",), start=0.0, user_mask=left),
    )
    result = run(model, chain, (SAME,))
    outside = (result.masks[:1] == 0)[:, None].expand_as(result.source)
    assert outside.any()
    difference = (result.edited[:1] - result.source)[outside].abs().max()
    assert difference <= TOLERANCE * result.source.abs().max()
    assert relative(result.edited[:1], result.source) > 1e-4
    assert relative(result.edited[1:], result.source) <= TOLERANCE


@pytest.mark.parametrize("renormalised", [None, True])
def test_attention_is_the_oracles(renormalised, model, monkeypatch):
    """What every layer gives out, of q, k and v as diffusers made them."""
    calls = []
    attend = Processor.__call__

    @wraps(attend)
    def kept(processor, attn, pixels, encoder_hidden_states=None, **named):
        out = attend(processor, attn, pixels, encoder_hidden_states, **named)
        calls.append((attn, pixels, encoder_hidden_states, out))
        return out

    monkeypatch.setattr(Processor, "__call__", kept)
    everywhere = SelfInjection(Window(0, 1), reach=1.0)
    swap = WordSwap("circle", "star", schedule=Schedule(Window(0, 1)), self_injection=everywhere)
    chain = (swap, Reweight((("red", 2.5), ("grass", 0.0)), renormalised=renormalised))
    controller = plan(PROMPT, [chain], model.read)
    texts = model.encode([prompt.text for prompt in controller.prompts])
    x = torch.randn(2, *BLANK.shape[1:], generator=torch.Generator().manual_seed(1))
    made = CallEdits(((controller, Rows(1, 1), 0),), 0.0, controller.length)
    with torch.no_grad(), model.attached() as call:
        call.predict(call.prepare(made, x), [], None, x, 5.0, texts, controller.length, 0.0)
        for attn, pixels, text, out in calls:
            q, k, v = (part.double() for part in project_in(attn, pixels, text))
            edited = self_edited_maps if text is None else edited_maps
            maps = explicit_maps(q, k, attn.heads)
            theirs = edited(maps, made.rows())
            assert not torch.equal(theirs, maps)
            theirs = project_out(attn, output_of(theirs, v).float())
            assert relative(out, theirs) <= TOLERANCE
    assert {text is None for _, _, text, _ in calls} == {False, True}


def test_values_outside_a_mask_are_the_sources(model, monkeypatch):
    """Those of every self-attention under the prompt, from the second step on, held to a loop."""
    seen, own = [], Processor.__call__

    def watched(self, attn, pixels, encoder_hidden_states=None, *rest, **named):
        if encoder_hidden_states is None and self.call.values is not None:
            _, _, v = project_in(attn, pixels)
            side = round(v.shape[1] ** 0.5)
            expected = v.clone()
            for pixel in range(side**2):
                if pixel % side * (16 // side) >= 4:  # its first latent cell is outside
                    expected[3, pixel] = v[2, pixel]
            found = self.call.values.within(v, self.call.layer(v.shape[1]))
            seen.append(torch.equal(found, expected))
        return own(self, attn, pixels, encoder_hidden_states, *rest, **named)

    monkeypatch.setattr(Processor, "__call__", watched)
    left = torch.zeros(1, 16, 16)
    left[..., :4] = 1
    kept = LocalBlend(user_mask=left, start=0.0, keep_background="values")
    result, plain = run(model, (SWAP, kept)), run(model, (SWAP,))
    assert seen
    assert all(seen)
    assert relative(result.source, plain.source) <= TOLERANCE
    assert not torch.equal(result.edited, plain.edited)
    full = LocalBlend(user_mask=torch.ones(1, 16, 16), start=0.0, keep_background="values")
    assert torch.equal(run(model, (SWAP, full)).edited, plain.edited)


def test_attention_is_as_it_was_afterwards(demo):
    before = demo.pipeline.unet.attn_processors
    run(demo, (SWAP,))
    assert demo.pipeline.unet.attn_processors == before
    with pytest.raises(ValueError, match="is not in the prompt"):
        run(demo, (WordSwap("dog", "cat"),))
    with pytest.raises(RuntimeError, match="stop"), attached(demo.pipeline.unet):
        raise RuntimeError("stop")
    assert demo.pipeline.unet.attn_processors == before


def test_foreign_attention_is_refused(demo):
    class Foreign:
        def __call__(self, *args, **named):
            raise AssertionError("not called")

    unet = demo.pipeline.unet
    before = unet.attn_processors
    unet.set_attn_processor(Foreign())
    try:
        with pytest.raises(ValueError, match=r"own attention, got Foreign"):
            run(demo, (SWAP,))
    finally:
        unet.set_attn_processor(before)


@pytest.mark.parametrize("method", METHODS)
def test_images_are_inverted_and_edited(method, model):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    settings = Settings(4, 3.0)
    options = Options(method, NullTexts(inner_steps=1))
    inversion = invert(model, latent, PROMPT, options, settings, negative="bad")
    result = run(
        model, (SWAP,), latent=latent, settings=settings, negative="bad", inversion=inversion
    )
    assert relative(result.source, inversion.reconstruction) <= ACROSS_BATCHES
    assert relative(result.edited, result.source) > 1e-4
    if inversion.found.restore_source:
        assert relative(result.source, latent) <= TOLERANCE
    assert not any(p.grad is not None for p in model.pipeline.unet.parameters())


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("method", ["direct-shared", "edit-friendly"])
def test_a_path_that_is_put_back_suits_every_sampler(method, sampler, demo):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    settings = Settings(5, 3.0, sampler, denoise=0.6)
    inversion = invert(demo, latent, PROMPT, Options(method), settings)
    result = run(demo, (SAME,), (SWAP,), latent=latent, settings=settings, inversion=inversion)
    same, swapped = result.edited.split(1)
    assert relative(result.source, latent) <= TOLERANCE
    assert relative(same, latent) <= ACROSS_BATCHES
    assert relative(swapped, latent) > 1e-2


@pytest.mark.parametrize("method", ["direct", "noise"])
def test_a_known_source_runs_where_an_edit_looks_at_it(method, model, monkeypatch):
    """Held to the run in which every row goes through the network."""
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    half = {"schedule": Schedule(Window(0, 0.5)), "self_injection": SelfInjection(Window(0, 0.5))}
    swap, refined = WordSwap("circle", "star", **half), Refine("a red circle on grass", **half)
    blend = LocalBlend(("circle",), ("star",))

    def counted(chains, cfg):
        settings, rows = Settings(4, cfg, "euler_ancestral"), []
        inversion = invert(model, latent, PROMPT, Options(method), settings)
        hook = model.pipeline.unet.register_forward_pre_hook(
            lambda module, given: rows.append(len(given[0]))
        )
        try:
            result = run(model, *chains, latent=latent, settings=settings, inversion=inversion)
        finally:
            hook.remove()
        return rows, result

    for chains, cfg, expected in (
        ([(swap,)], 3.0, [3, 3, 2, 2]),
        ([(swap,), (refined,)], 3.0, [5, 5, 4, 4]),
        ([(swap,)], 1.0, [2, 2, 1, 1]),
        ([(swap, blend)], 3.0, [3, 3, 3, 3]),
    ):
        rows, known = counted(chains, cfg)
        assert rows == expected
        with monkeypatch.context() as patch:
            patch.setattr(Held, "needed", lambda rows, needs: Held((rows,) * len(needs)))
            rows, full = counted(chains, cfg)
        assert rows == [(1 + len(chains)) * (1 if cfg == 1 else 2)] * 4
        assert relative(known.edited, full.edited) <= TOLERANCE
        assert torch.equal(known.source, full.source)


def test_an_inversion_of_other_settings_is_refused(demo):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    inversion = invert(demo, latent, PROMPT, Options("ddim"), Settings(4, 3.0))
    for settings, said in (
        (Settings(5, 3.0), "Expected 4 steps"),
        (Settings(4, 3.0, "euler_ancestral"), "sampler euler"),
    ):
        with pytest.raises(ValueError, match=said):
            run(demo, (SWAP,), latent=latent, settings=settings, inversion=inversion)
    with pytest.raises(ValueError, match="negative conditioning"):
        run(demo, (SWAP,), latent=latent, inversion=inversion, negative="a blue star")
    with pytest.raises(ValueError, match="another image's"):
        run(demo, (SWAP,), latent=latent + 1, inversion=inversion)


def test_word_maps(demo):
    views = []

    def look(controller, rows):
        views.append(Viewing.of(controller, rows, ["circle", "star"], 1.0))
        return [views[0].maps]

    run(demo, (SWAP,), maps=look)
    seen = views[0].seen(Window())
    assert [(one.row, one.word) for one in seen] == [(0, "circle"), (1, "star")]
    assert all(one.mean.shape == (16, 16) and one.steps.shape == (4, 16, 16) for one in seen)
    assert all(0 < one.mean.max() <= 1 for one in seen)


def test_sharpened_word_maps(demo, monkeypatch):
    """Held to maps made in the open, averaged over layers and steps."""
    expected, own, call = [], [], Processor.__call__
    words = split_words(PROMPT)

    def watched(self, attn, pixels, encoder_hidden_states=None, *rest, **named):
        q, k, _ = project_in(attn, pixels, encoder_hidden_states)
        maps = explicit_maps(q.double(), k.double(), attn.heads).mean(1)[-1]
        if encoder_hidden_states is None:
            own[:] = [maps]
        elif q.shape[1] == 64:
            expected.append(own[0] @ own[0] @ maps[:, 1 + words.index("circle")])
        return call(self, attn, pixels, encoder_hidden_states, *rest, **named)

    monkeypatch.setattr(Processor, "__call__", watched)
    _, (seen,) = sample_and_look(
        demo, PROMPT, [], BLANK, ["circle"], 0.5, 2, settings=Settings(2, 3.0), quiet=True
    )
    mean = torch.stack(expected).mean(0)
    assert relative(seen.mean.flatten().double(), mean) <= TOLERANCE


def test_sides(demo, sd2, sdxl):
    sides = [cross_attention_sides(model.pipeline.unet) for model in (demo, sd2, sdxl)]
    assert sides == [(1.0, 0.5, 0.25), (1.0, 0.5), (0.5,)]


def test_odd_sizes_and_reach(demo):
    never = Schedule(Window(0, 0))
    chains = [
        (WordSwap("circle", "star", 1, never, SelfInjection(Window(), reach)),)
        for reach in (0.2, 0.25, 0.5, 1.0)
    ]
    result = run(demo, *chains, latent=torch.zeros(1, 4, 17, 21))
    rows = result.edited.split(1)
    assert all(relative(one, two) > 1e-4 for one, two in pairwise(rows))


@pytest.mark.parametrize(("size", "same"), [((16, 64), 1.0), ((28, 40), 0.5)])
def test_automatic_reach_counts_cells(size, same, demo):
    """Layers of up to 32² cells: all of a latent of 16×64, and the halved ones of 28×40."""
    never = Schedule(Window(0, 0))
    chains = [
        (WordSwap("circle", "star", 1, never, SelfInjection(Window(), reach)),)
        for reach in (None, 0.25, 0.5, 1.0)
    ]
    result = run(demo, *chains, latent=torch.zeros(1, 4, *size), settings=Settings(2, 3.0))
    automatic, *others = result.edited.split(1)
    alike = [relative(automatic, other) <= 1e-4 for other in others]
    assert alike == [reach == same for reach in (0.25, 0.5, 1.0)]


def test_models_that_lack_something_are_refused(sdxl):
    lacking = copy(sdxl.pipeline)  # diffusers forgets for ever what kind a part was set to None
    lacking.text_encoder_2 = None
    with pytest.raises(ValueError, match="without text_encoder_2"):
        Model(lacking)


def test_an_inversion_that_the_sampler_cannot_follow_is_not_begun(demo):
    told = []
    settings = Settings(4, 3.0, "dpmpp_2m")
    with pytest.raises(ValueError, match="sampler euler for an inversion by null-text"):
        invert(demo, BLANK, PROMPT, Options(), settings, watch=told.append)
    with pytest.raises(ValueError, match="at most 75 tokens"):
        invert(demo, BLANK, "red " * 80, Options(), watch=told.append)
    assert not told
    with pytest.raises(ValueError, match="Expected 0 iterations"):
        Options("noise", iterations=1)


def test_uniform_levels_are_those_of_diffusers_leading_timesteps(demo):
    scheduler = DDIMScheduler.from_config(
        demo.pipeline.scheduler.config, timestep_spacing="leading", steps_offset=1
    )
    for steps in (4, 50):
        scheduler.set_timesteps(steps)
        *levels, end = demo.sigmas(steps, scheduler="ddim_uniform")
        assert [demo.timestep(sigma) for sigma in levels] == scheduler.timesteps.tolist()
        assert end == 0


def test_wrong_input(demo, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Model.load(tmp_path / "none")
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(ValueError, match="cannot load") as raised:
        Model.load(tmp_path / "model.safetensors")
    assert known() in str(raised.value)
    with pytest.raises(ValueError, match="cannot load"):
        Model.load(tmp_path)
    with pytest.raises(ValueError, match="at most 75 tokens"):
        demo.read("red " * 80)
    with pytest.raises(ValueError, match="words of at most 1000 letters"):
        demo.read("a" * 2_000)
    with pytest.raises(ValueError, match="sampler to be one of"):
        Settings(sampler="best")
    with pytest.raises(ValueError, match=r"scheduler to be one of normal.* got 'best'"):
        Settings(scheduler="best")
    for cfg in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"finite guidance scale \(cfg\), got"):
            Settings(cfg=cfg)
    chain = (SWAP, Reweight((("red", 1e38),)))
    with pytest.raises(ValueError, match=r"finite latents, .* in edit 1\. A word's factor"):
        run(demo, chain, settings=Settings(2))
    theirs = Settings(scheduler=DDIMScheduler())
    with pytest.raises(ValueError, match="by its name, got DDIMScheduler"):
        invert(demo, BLANK, PROMPT, settings=theirs)
    with pytest.raises(ValueError, match="1 or more steps"):
        run(demo, (SWAP,), settings=Settings(0))
    with pytest.raises(ValueError, match=r"a family that is edited .*, Wan\), got object\. Load"):
        Model(object())


def test_brackets_are_text_in_diffusers(demo):
    """Its tokenizers know no weights: each word of them has the tokens that it has by itself."""
    text = "a (red:1.2) circle, (3)"
    prompt = demo.read(text)
    ids = demo.pipeline.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [word.text for word in prompt.words] == split_words(text)
    assert [token for word in prompt.words for token in word.ids] == ids
    assert [t for word in prompt.words for t in word.tokens] == list(range(1, 1 + len(ids)))


def test_pictures_that_the_autoencoder_cannot_halve_are_cropped(demo):
    picture = np.zeros((1, 101, 123, 3), np.uint8)
    assert demo.to_latent(picture).shape == (1, 4, 12, 15)
