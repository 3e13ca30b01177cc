"""Transformers of diffusers' own classes, small, beside their pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)
from diffusers.utils import is_accelerate_available
from joint_oracle import joint_output
from oracle import edited_maps, explicit_maps, output_of, self_edited_maps
from runs import PROMPT, relative
from small_parts import autoencoder
from transformers_of_diffusers import (
    HEADS,
    LENGTH,
    flux,
    qwen,
    sd3,
    t5_encoder,
    t5_tokenizer,
    wan,
    z_image,
)

from p2p_core.background import SourceValues
from p2p_core.blocks import Blocks
from p2p_core.calls import CallEdits
from p2p_core.controller import Rows, plan
from p2p_core.edits import ALIGNED, SHARED, Joint, Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.diffusers.blocks import CrossBlocks, JointBlocks
from p2p_core.hosts.diffusers.inverting import invert
from p2p_core.hosts.diffusers.kinds import known
from p2p_core.hosts.diffusers.opening import model_of, open_model
from p2p_core.hosts.diffusers.sampling import Settings, sample
from p2p_core.hosts.diffusers.viewing import sample_and_look
from p2p_core.inversion.methods import METHODS, Options
from p2p_core.inversion.null_text import Schedule as NullTexts
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

TOLERANCE, ACROSS_BATCHES = 1e-5, 5e-5
ALL = Schedule(Window(0, 1))


@dataclass(frozen=True)
class Case:
    """A pipeline, and how it is run as it stands."""

    make: Callable[[], Any]
    named: dict[str, Any]
    """Beside prompt, steps, size and latents."""
    cfg: str = "guidance_scale"
    """What it calls guidance by a negative prompt."""
    packs: bool = False
    kinds: tuple[str, ...] = ("double",) * 2
    joint: bool = True
    extra: float = 0.0
    """What its guidance counts from, where ours counts from 0."""


VIDEO = ("block",) * 2
CASES = {
    "flux": Case(
        flux,
        {"guidance_scale": 3.5, "max_sequence_length": LENGTH},
        "true_cfg_scale",
        packs=True,
        kinds=("double", "double", "single", "single"),
    ),
    "sd3": Case(sd3, {"max_sequence_length": LENGTH}, kinds=("double",) * 3),
    "qwen-image": Case(qwen, {}, "true_cfg_scale", packs=True),
    "z-image": Case(z_image, {}, kinds=("single",) * 2, extra=-1),
    "wan": Case(wan, {"max_sequence_length": LENGTH, "num_frames": 5}, kinds=VIDEO, joint=False),
    "wan-turns": Case(
        partial(wan, turns=True),
        {"max_sequence_length": LENGTH, "num_frames": 5},
        kinds=VIDEO,
        joint=False,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    torch.manual_seed(0)
    return model_of(case.make())


@pytest.fixture
def latent(model):
    """A video's has two frames."""
    blank = model.blank(64, 128)
    return blank.repeat(1, 1, 2, 1, 1) if blank.ndim == 5 else blank


def run(model, latent, *chains, settings=None, **more):
    settings = settings or Settings(3, 2.0)
    return sample(model, PROMPT, chains, latent, settings, quiet=True, **more)


def edits(mode, blocks="all", window=None):
    return Joint(mode, Blocks(blocks)), SelfInjection(window or Window(0, 1))


def swap(new="star", mode="automatic", blocks="all", window=None, schedule=ALL):
    joint, injection = edits(mode, blocks, window)
    return WordSwap("circle", new, schedule=schedule, self_injection=injection, joint=joint)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_the_source_is_the_stock_pipelines(cfg, case, model, latent):
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    pipeline, (height, width) = model.pipeline, (128, 64)
    given = noise
    if case.packs:
        given = pipeline._pack_latents(noise, 1, noise.shape[1], *noise.shape[-2:])
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        negative_prompt="the grass",
        num_inference_steps=3,
        latents=given.clone(),
        output_type="latent",
        height=height,
        width=width,
        **{**case.named, case.cfg: cfg + case.extra},
    )[0]
    if case.packs:
        theirs = pipeline._unpack_latents(theirs, height, width, pipeline.vae_scale_factor)
        theirs = theirs.view(latent.shape)
    ours = run(
        model, latent, (swap(),), settings=Settings(3, cfg), negative="the grass", noise=noise
    )
    assert relative(model.inward(ours.source), theirs) <= ACROSS_BATCHES
    assert relative(ours.edited, ours.source) > 1e-4


def test_words(case, model):
    prompt = model.read(PROMPT)
    assert [word.text for word in prompt.words] == PROMPT.split()
    assert prompt.length == model.encode([PROMPT]).tokens.shape[1] or model.kind.multiple > 1
    with pytest.raises(ValueError, match=r"at most \d+ tokens"):
        model.read("red " * 600)


def test_identities(case, model, latent):
    never = Schedule(Window(0, 0))
    chains = [
        (swap("circle"),),
        (swap(schedule=never, window=Window(0, 0)),),
        (swap("circle"), Reweight((("grass", 1.0),))),
    ]
    modes = [SHARED, ALIGNED] if case.joint else ["automatic"]
    chains += [(swap("circle", mode),) for mode in modes]
    result = run(model, latent, *chains)
    same, unedited, one, *others = result.edited.split(1)
    for found in (same, one, *others):
        assert relative(found, result.source) <= TOLERANCE
    other = sample(model, "a red star on the grass", [], latent, Settings(3, 2.0), quiet=True)
    assert relative(unedited, other.source) <= ACROSS_BATCHES
    assert relative(unedited, result.source) > 1e-3


def test_every_edit_and_the_local_blend(case, model, latent):
    height, width = latent.shape[-2:]
    left = torch.ones(1, height, width)
    left[..., width // 2 :] = 0
    blend = LocalBlend(("circle",), ("star",), start=0.0, user_mask=left)
    chains = [
        (swap(), Reweight((("star", 2.0),)), blend),
        (Refine("a big red circle on the grass"),),
        (Reweight((("circle", -1.0),)),),
    ]
    result = run(model, latent.repeat(2, *[1] * (latent.ndim - 1)), *chains)
    assert result.source.shape[0] == 2
    blended, refined, weighed = result.edited.split(2)
    assert torch.isfinite(result.edited).all()
    for found in (blended, refined, weighed):
        assert relative(found, result.source) > 1e-4
    masks = result.masks.unflatten(0, (3, -1))[0]  # of the first edit; a video has one per frame
    outside = (masks == 0).view(2, 1, *latent.shape[2:]).expand_as(blended)
    assert outside.any()
    difference = (blended - result.source)[outside].abs().max()
    assert difference <= TOLERANCE * result.source.abs().max()


def test_words_are_looked_at(case, model, latent):
    """Maps that self-attention was multiplied with are means of their cells, and so flatter."""
    settings = Settings(2, 2.0)
    side = max(model.sides)
    plain, seen = (
        sample_and_look(
            model,
            PROMPT,
            [(swap(),)],
            latent,
            ["star", "grass"],
            sharpen=times,
            settings=settings,
            quiet=True,
        )[1]
        for times in (0, 2)
    )
    for one, other in zip(seen, plain, strict=True):
        spread, before = (m.mean.max() - m.mean.min() for m in (one, other))
        assert 0 <= spread < before
    assert [(one.row, one.word) for one in seen] == [(0, "grass"), (1, "star"), (1, "grass")]
    frames = latent.shape[2] if latent.ndim == 5 else 1
    height, width = (int(length * side) for length in latent.shape[-2:])
    size = (frames * height, width)
    assert all(one.mean.shape == size and 0 < one.mean.max() <= 1 for one in seen)


def test_windows_over_blocks(case, model, latent):
    first, whole, nothing = (
        run(model, latent, (swap(blocks=blocks),)).edited
        for blocks in ("0", "all", f"0-{len(case.kinds) - 1}")
    )
    assert relative(first, whole) > 1e-5
    assert relative(nothing, whole) == 0
    with pytest.raises(ValueError, match=f"of {len(case.kinds)} blocks"):
        run(model, latent, (swap(blocks="99"),))


@pytest.mark.parametrize("mode", [SHARED, ALIGNED])
@pytest.mark.parametrize("renormalised", [None, False])
def test_joint_attention_is_the_oracles(renormalised, mode, case, model, latent, monkeypatch):
    """What every block's attention gives out, of q, k and v as diffusers made them.

    The first edit keeps values of its own where its mask is white, and else has the source's.
    """
    if not case.joint:
        pytest.skip("its text has a softmax of its own")
    *_, height, width = latent.shape
    mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(2)) > 0.7
    values = SourceValues.of([({0: mask.float()}, Rows(1, 2), 0)], height)
    patch = round(1 / max(model.sides))
    cells = mask[0].unflatten(1, (-1, patch)).unflatten(0, (-1, patch))
    outside = ~cells.any(-1).any(1).flatten()
    assert outside.any()
    made, calls = attended(model, case, latent, mode, renormalised, monkeypatch, values)
    assert [block for block, *_ in calls] == list(range(len(case.kinds)))
    for block, _, one, out, shape in calls:
        q, k, v = (joined(part.double()) for part in (one.q, one.k, one.v))
        image = v[:, shape.image]
        image[1, outside] = image[0, outside]
        mask = None
        if one.mask is not None:
            mask = torch.zeros(one.mask.shape).double().masked_fill(~one.mask, -torch.inf)
            mask = mask.expand(len(q), 1, q.shape[1], q.shape[1])[:, 0]
        theirs = joint_output(
            q, k, v, made.rows(block, case.kinds), shape.text, shape.image, HEADS, mask
        )
        assert relative(joined(out.double()), theirs) <= TOLERANCE


@pytest.mark.parametrize("renormalised", [None, True])
def test_cross_attention_is_the_oracles(renormalised, case, model, latent, monkeypatch):
    """The image's to itself and to its text, of every block."""
    if case.joint:
        pytest.skip("its text and image share one softmax")
    made, calls = attended(model, case, latent, "automatic", renormalised, monkeypatch)
    roles = [(block, role) for block, role, *_ in calls]
    assert roles == [(block, role) for block in range(len(case.kinds)) for role in (0, 1)]
    for block, role, one, out, _ in calls:
        q, k, v = (joined(part.double()) for part in (one.q, one.k, one.v))
        edited = (self_edited_maps, edited_maps)[role]
        maps = explicit_maps(q, k, HEADS)
        theirs = edited(maps, made.rows(block, case.kinds))
        assert not torch.equal(theirs, maps)
        assert relative(joined(out.double()), output_of(theirs, v)) <= TOLERANCE


def attended(model, case, latent, mode, renormalised, monkeypatch, values=None):
    """A call's edits, and of every attention in it (block, role, what it got, gave, its shape)."""
    calls = []
    kind = JointBlocks if case.joint else CrossBlocks
    handle = kind.handle

    def kept(blocks, block, role, call):
        out = handle(blocks, block, role, call)
        calls.append((block, role, call, out, blocks.shape))
        return out

    monkeypatch.setattr(kind, "handle", kept)
    chain = (swap(mode=mode), Reweight((("red", 1.5),), renormalised=renormalised))
    controller = plan(PROMPT, [chain, (swap(mode=mode, blocks="first 1/2"),)], model.read)
    texts = model.encode([prompt.text for prompt in controller.prompts])
    x = torch.randn(3, *latent.shape[1:], generator=torch.Generator().manual_seed(1))
    made = CallEdits(((controller, Rows(1, 2), 0),), 0.0, controller.length)
    with torch.no_grad(), model.attached() as call:
        prepared = call.prepare(made, x)
        call.predict(prepared, [], values, x, 0.7, texts, controller.length, 3.5)
    return made, calls


def joined(x):
    """[rows heads tokens width] → [rows tokens (heads width)]."""
    return x.transpose(1, 2).flatten(2)


def test_a_folder_is_opened_as_it_was_kept(case, model, latent, tmp_path):
    if model.network._keep_in_fp32_modules and not is_accelerate_available():
        pytest.skip("diffusers loads this class with accelerate alone")
    model.pipeline.save_pretrained(tmp_path)
    again = open_model(tmp_path)
    settings = Settings(2, 1.0)
    one, two = (run(some, latent, (swap(),), settings=settings) for some in (model, again))
    assert relative(two.edited, one.edited) == 0


def test_a_single_step(case, model, latent):
    """A schedule that is stretched to a last level of its own has no single step: 0 / 0."""
    if model.pipeline.scheduler.config.shift_terminal is None:
        result = run(model, latent, (swap(),), settings=Settings(1, 1.0))
        assert relative(result.edited, result.source) > 1e-4
        return
    theirs = FlowMatchEulerDiscreteScheduler.from_config(model.pipeline.scheduler.config)
    for scheduler in ("normal", theirs):
        settings = Settings(1, 1.0, scheduler=scheduler)
        with pytest.raises(ValueError, match=r"Expected 2 or more steps, .* got 1\."):
            run(model, latent, (swap(),), settings=settings)


def test_pipelines_of_other_families_are_refused():
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=16,
    )
    other = PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )
    with pytest.raises(ValueError, match="got PixArtAlphaPipeline") as raised:
        model_of(other)
    assert f"a family that is edited in diffusers ({known()}), got" in str(raised.value)
    not_of_it = ("image_encoder", "feature_extractor")
    parts = {name: one for name, one in flux().components.items() if name not in not_of_it}
    parts["transformer"] = FluxTransformer2DModel.from_config(
        {**parts["transformer"].config, "in_channels": 96, "out_channels": 16}
    )
    with pytest.raises(ValueError, match=r"got FluxFillPipeline, .* \(96 channels of 4\)"):
        model_of(FluxFillPipeline(**parts))


def test_what_cannot_be_done_is_refused(case, model, latent):
    with pytest.raises(ValueError, match="multiples of"):
        run(model, latent[..., :3], (swap(),))
    with pytest.raises(ValueError, match="sampler euler"):
        run(model, latent, (swap(),), settings=Settings(2, sampler="dpmpp_2m"))
    with pytest.raises(ValueError, match="a cfg other than 1 for the method null-text"):
        invert(model, latent, PROMPT, Options("null-text"), Settings(2, 1.0))


RESTORED = ("direct", "direct-shared", "edit-friendly", "noise", "residual")


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_inverted(method, model, latent):
    """Its row beside an edit is the reconstruction; where it is put back, it is the image."""
    image = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    settings = Settings(3, 2.0)
    options = Options(method, NullTexts(inner_steps=2))
    inversion = invert(model, image, PROMPT, options, settings, explain=True)
    result = run(model, image, (swap(),), settings=settings, inversion=inversion)
    assert relative(result.source, inversion.reconstruction) <= ACROSS_BATCHES
    assert relative(result.edited, result.source) > 1e-4
    assert -1 <= inversion.explained[0] <= 1
    if method in RESTORED:
        assert relative(result.source, image) <= ACROSS_BATCHES
    if method in ("direct-shared", "edit-friendly", "residual"):
        never = Schedule(Window(0, 0))
        joint, _ = edits("automatic")
        same = WordSwap(
            "circle",
            "circle",
            schedule=never,
            self_injection=SelfInjection(Window(0, 0)),
            joint=joint,
        )
        kept = run(model, image, (same,), settings=settings, inversion=inversion)
        assert relative(kept.edited, image) <= ACROSS_BATCHES
    with pytest.raises(ValueError, match="3 steps, as the inversion was made with, got 4 steps"):
        run(model, image, (swap(),), settings=Settings(4, 2.0), inversion=inversion)
