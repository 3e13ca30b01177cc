"""Joint-attention models of the host's own classes, small and with random weights.

What they sample under an edit is held to the same network with maps made in the open.
"""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from joint_oracle import joint_output, logits
from oracle import edited_maps, output_of, self_edited_maps
from runs import relative
from text_tokenizers import reader
from transformers_of_the_host import FAMILIES, built, entries, known, places

from p2p_core.blocks import Blocks
from p2p_core.calls import CallEdits
from p2p_core.controller import Rows, plan
from p2p_core.edits import ALIGNED, SHARED, Joint, Refine, Reweight, SelfInjection, WordSwap
from p2p_core.edits.mix import Mix
from p2p_core.hosts.comfyui.conditioning import CONTROLLER_KEY, EncodedController, stacked
from p2p_core.hosts.comfyui.families import family_of
from p2p_core.hosts.comfyui.guarding import unguarded
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.hosts.comfyui.texts import PROMPT_KEYS
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window, progress
from p2p_core.tokens import read_prompt
from p2p_core.viewing import Viewing

TOLERANCE = 1e-5
STEPS, SEED = 3, 7
SOURCE = "a fluffy cat sits on the wet grass"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return known(FAMILIES[request.param])


@pytest.fixture(scope="module")
def model(family):
    return built(family)


def encoded(family, chains):
    controller = plan(SOURCE, chains, reader(window=family.window))
    rows = 1 + len(chains)
    return EncodedController.of(controller, entries(family, rows, controller.length, 3))


def latent(model, family, sources=1):
    wanted = model.get_model_object("latent_format")
    frames = [family.frames] * (getattr(wanted, "latent_dimensions", 2) - 2)
    return {"samples": torch.zeros(sources, wanted.latent_channels, *frames, *family.size)}


def plain(extra):
    """A conditioning's dict without the controller's marks."""
    return {k: v for k, v in unguarded(extra).items() if k != CONTROLLER_KEY}


def changed(extra, change):
    """A conditioning's dict for the host alone, with what it has for each prompt changed."""
    said = {key: extra[key] for key in PROMPT_KEYS if extra.get(key) is not None}
    own = {key: change(value) for key, value in said.items() if len(value) > 1}
    return {**plain(extra), **own}


def first(rows):
    return rows[:1]


def settings(cfg):
    return {
        "seed": SEED,
        "steps": STEPS,
        "cfg": cfg,
        "sampler_name": "euler",
        "scheduler": "simple",
    }


def ours(model, family, controller, cfg, sources=1, **more):
    return sample(
        model,
        controller,
        negative=entries(family, 1, 5, 11),
        latent=latent(model, family, sources),
        **settings(cfg),
        **more,
    )


def with_heads(x, heads):
    """Heads joined, those of keys and values that queries share repeated for each."""
    if x.ndim < 4:
        return x
    return x.repeat_interleave(heads // x.shape[1], 1).transpose(1, 2).flatten(2)


def masked_maps(q, k, heads, mask=None, **named):
    """Maps of the host's call, as it hides tokens: [rows heads queries keys]."""
    return (logits(q, k, heads) + (0 if mask is None else mask)).softmax(-1)


def in_the_open(model, family, controller, cfg, sources=1, masks=None):
    """The same run in which every block's maps are made explicitly, and edited by definition.

    `masks`, {branch: bool[sources frames height width]} of latent cells, say where edits keep their
    own values of the image after the first step.
    """
    rows = Rows(sources, len(controller.controller.branches))
    tokens = controller.controller.length
    patch = family.patch
    pixels = family.frames * (family.size[0] // patch) * (family.size[1] // patch)
    kinds = family_of(model).kinds
    seen = {"calls": 0, "sigma": None}

    def progress_of(options):
        return progress(float(options["sigmas"][0]), options["sample_sigmas"].tolist())

    def values(v, start, options):
        """Of the image: cells wholly outside their mask have the source's."""
        v = v.clone()
        here = progress_of(options)
        for branch, mask in (masks or {}).items() if here else ():
            for image, (row, source) in enumerate(rows.pairs(branch)):
                cells = mask[image].unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
                outside = ~cells.any(-1).any(-2).flatten()
                v[start + row, outside] = v[start + source, outside]
        return v

    def crossing(func, q, k, v, heads, *args, **named):
        """Attention of a family whose text has its own; blocks call self, then cross."""
        options = named["transformer_options"]
        kind = options["cond_or_uncond"]
        if 0 not in kind or q.shape[-2] != pixels or k.shape[-2] not in (pixels, tokens):
            return func(q, k, v, heads, *args, **named)
        here = float(options["sigmas"][0])
        if seen["sigma"] != here:
            seen.update(calls=0, sigma=here)
        block, seen["calls"] = seen["calls"] // 2, seen["calls"] + 1
        part = ((controller.controller, rows, kind.index(0) * rows.total),)
        q, k, v = (x.transpose(1, 2).flatten(2) if x.ndim == 4 else x for x in (q, k, v))
        q, k, v = q.double(), k.double(), v.double()
        if k.shape[-2] == pixels:
            v = values(v, part[0][2], options)
        maps = masked_maps(q, k, heads, *args, **named)
        edits = CallEdits(part, progress_of(options), tokens).rows(block, kinds)
        edited = self_edited_maps if k.shape[-2] == pixels else edited_maps
        return output_of(edited(maps, edits), v).float()

    def attention(func, q, k, v, heads, *args, **named):
        options = named["transformer_options"]
        kind = options["cond_or_uncond"]
        if (
            0 not in kind
            or q.shape[-2] < family.before + tokens + pixels
            or q.shape[-2] != k.shape[-2]
        ):
            return func(q, k, v, heads, *args, **named)
        here = float(options["sigmas"][0])
        if seen["sigma"] != here:
            seen.update(calls=0, sigma=here)
        block, seen["calls"] = seen["calls"], seen["calls"] + 1
        start = kind.index(0) * rows.total
        part = ((controller.controller, rows, start),)
        edits = CallEdits(part, progress_of(options), tokens).rows(block, kinds)
        v = v.flatten(2) if v.ndim > q.ndim else v
        joined = [with_heads(x, heads).double() for x in (q, k, v)]
        begins = places(family, tokens, pixels)
        text, image = (
            slice(begin, begin + size) for begin, size in zip(begins, (tokens, pixels), strict=True)
        )
        joined[2][:, image] = values(joined[2][:, image], start, options)
        return joint_output(*joined, edits, text, image, heads).to(q)

    def pooled(apply, args):
        options = args["c"]["transformer_options"]
        if "y" in args["c"] and 0 in args["cond_or_uncond"]:
            start = args["cond_or_uncond"].index(0) * rows.total
            part = ((controller.controller, rows, start),)
            y = args["c"]["y"].clone()
            for block in range(len(kinds)):
                here = progress_of(options)
                for edit in CallEdits(part, here, tokens).rows(block, kinds):
                    if edit.source_vector:
                        y[edit.row] = args["c"]["y"][edit.source]
            args["c"]["y"] = y
        return apply(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = (
        attention if family.joint else crossing
    )
    patched.set_model_unet_function_wrapper(pooled)
    positive = [
        [rows.of_prompts(cond), changed(extra, rows.of_prompts)]
        for cond, extra in controller.conditioning
    ]
    latents = rows.of_sources(latent(model, family, sources)["samples"])
    noise = rows.of_sources(
        comfy.sample.prepare_noise(latent(model, family, sources)["samples"], SEED)
    )
    return comfy.sample.sample(
        patched,
        noise,
        STEPS,
        cfg,
        "euler",
        "simple",
        positive,
        entries(family, 1, 5, 11),
        latents,
        disable_pbar=True,
        seed=SEED,
    )


def always(mode, blocks="all"):
    return {
        "schedule": Schedule(Window(0, 0.7)),
        "self_injection": SelfInjection(Window(0, 0.5)),
        "joint": Joint(mode, Blocks(blocks)),
    }


def chains(mode):
    """Every kind of edit, alone and one after another, in a mode of joint attention."""
    return {
        "swap": (WordSwap("cat", "big dog", **always(mode)),),
        "refine": (Refine("a fluffy cat sits on the very wet red grass", **always(mode)),),
        "reweight": (Reweight((("cat", 3.0), ("wet", 0.0)), joint=Joint(mode)),),
        "turned round": (Reweight((("cat", -1.0),), joint=Joint(mode)),),
        "as the paper": (Reweight((("cat", 2.0),), joint=Joint(mode), renormalised=False),),
        "before the softmax": (
            Reweight((("cat", 2.0), ("wet", 0.0)), joint=Joint(mode), renormalised=True),
        ),
        "mix": (Mix("cat", "dog", 0.4, **always(mode)),),
        "chain": (
            WordSwap(
                "cat", "dog", **always(mode) | {"joint": Joint(mode, Blocks("first 1/2"), False)}
            ),
            Reweight((("fluffy", 2.0),), joint=Joint(mode, Blocks("last 1/2"))),
        ),
    }


@pytest.mark.parametrize("mode", [SHARED, ALIGNED])
@pytest.mark.parametrize("name", chains(SHARED))
@torch.inference_mode()
def test_edits_are_their_definition(model, family, mode, name):
    if not family.joint and mode == SHARED:
        with pytest.raises(ValueError, match=r"got one for joint attention\. Set attention to"):
            ours(model, family, encoded(family, [chains(mode)[name]]), 3.0)
        return
    controller = encoded(family, [chains(mode)[name]])
    result = ours(model, family, controller, 3.0)
    expected = in_the_open(model, family, controller, 3.0)
    assert relative(result.source["samples"], expected[:1]) <= TOLERANCE
    assert relative(result.edited["samples"], expected[1:]) <= TOLERANCE
    assert relative(result.edited["samples"], result.source["samples"]) > 1e-3


@pytest.mark.parametrize("cfg", [1.0, 2.5])
@torch.inference_mode()
def test_several_edits_of_several_sources(model, family, cfg):
    both = [chains(SHARED if family.joint else ALIGNED)["swap"], chains(ALIGNED)["chain"]]
    controller = encoded(family, both)
    result = ours(model, family, controller, cfg, sources=2)
    expected = in_the_open(model, family, controller, cfg, sources=2)
    assert relative(result.source["samples"], expected[:2]) <= TOLERANCE
    assert relative(result.edited["samples"], expected[2:]) <= TOLERANCE


@torch.inference_mode()
def test_values_outside_masks_are_the_sources(model, family):
    """Two edits of two sources, one with a mask for each; nothing is set in the latents."""
    generator = torch.Generator().manual_seed(5)
    white = torch.rand(2, 1, *family.size, generator=generator) > 0.8
    blend = LocalBlend(user_mask=white[:, 0].float(), start=0.0, keep_background="values")
    mode = SHARED if family.joint else ALIGNED
    both = [(*chains(mode)["swap"], blend), chains(mode)["chain"]]
    controller = encoded(family, both)
    result = ours(model, family, controller, 2.5, sources=2)
    masks = {0: white.expand(-1, family.frames, -1, -1)}
    expected = in_the_open(model, family, controller, 2.5, sources=2, masks=masks)
    assert relative(result.source["samples"], expected[:2]) <= TOLERANCE
    assert relative(result.edited["samples"], expected[2:]) <= TOLERANCE
    own = in_the_open(model, family, controller, 2.5, sources=2)
    assert relative(result.edited["samples"][:2], own[2:4]) > 3 * TOLERANCE


@pytest.mark.parametrize("mode", [SHARED, ALIGNED])
@torch.inference_mode()
def test_the_source_is_the_stock_run_and_identities_hold(model, family, mode):
    mode = mode if family.joint else ALIGNED
    never = {"schedule": Schedule(Window(0, 0)), "self_injection": SelfInjection(Window(0, 0))}
    identities = [
        (Reweight((("cat", 1.0),), joint=Joint(mode)),),
        (WordSwap("cat", "cat", **always(mode)),),
        (WordSwap("cat", "cat", joint=Joint(mode), **never),),
    ]
    controller = encoded(family, identities)
    (cond, extra), *_ = controller.conditioning
    same = changed(extra, lambda rows: rows[:1].expand_as(rows).clone())
    controller = EncodedController.of(
        controller.controller, [[cond[:1].expand_as(cond).clone(), same]]
    )
    result = ours(model, family, controller, 3.0)
    stock = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent(model, family)["samples"], SEED),
        STEPS,
        3.0,
        "euler",
        "simple",
        [[cond[:1], changed(same, first)]],
        entries(family, 1, 5, 11),
        latent(model, family)["samples"],
        disable_pbar=True,
        seed=SEED,
    )
    assert relative(result.source["samples"], stock) <= TOLERANCE
    for n in range(3):
        assert relative(result.edited["samples"][n : n + 1], stock) <= TOLERANCE


@torch.inference_mode()
def test_local_blend_keeps_the_background(model, family):
    swap, *_ = chains(SHARED if family.joint else ALIGNED)["swap"]
    masks = []
    for threshold in (0.5, 0.9, 0.98, 0.995, 0.999):  # maps of random weights are all but flat
        blend = LocalBlend(("cat",), ("dog",), threshold=threshold)
        controller = encoded(family, [(swap, blend)])
        result = ours(model, family, controller, 2.0)
        masks.append(result.masks)
        assert result.masks.shape == (family.frames, *family.size)
        difference = (result.edited["samples"] - result.source["samples"])[0]
        difference = difference.view(-1, family.frames, *family.size)  # channels first
        outside = (result.masks == 0).expand_as(difference)
        assert not outside.any() or difference[outside].abs().max() <= 1e-5
    assert any(0 < mask.mean() < 1 for mask in masks)


@torch.inference_mode()
def test_blocks_that_a_model_lacks_are_refused(model, family):
    swap = WordSwap("cat", "dog", joint=Joint(blocks=Blocks("20-37")))
    with pytest.raises(ValueError, match="Expected blocks that this model has, got '20-37' of"):
        ours(model, family, encoded(family, [(swap,)]), 1.0)


@pytest.mark.parametrize(("edits", "sharpen"), [(0, 0), (1, 0), (1, 2)])
@torch.inference_mode()
def test_word_maps_are_the_images_attention_to_the_words(model, family, edits, sharpen):
    """Averaged over blocks, steps and heads; those of an edited row are the edited ones.

    Sharpened, each block's are first multiplied with how the image looks at itself there.
    """
    mode = SHARED if family.joint else ALIGNED
    swap = WordSwap("cat", "dog", schedule=Schedule(), self_injection=SelfInjection(Window()))
    chain = (replace(swap, joint=Joint(mode)),)
    controller = encoded(family, [chain] * edits)
    rows = Rows(1, edits)
    viewing = Viewing.of(
        controller.controller, rows, ["cat", "dog"][: 1 + edits], 1 / family.patch, sharpen
    )
    ours(model, family, controller, 1.0, maps=(viewing.maps,))
    maps = {one.row: one.mean for one in viewing.seen(Window())}
    expected, own = [], []
    tokens = controller.controller.length
    pixels = family.frames * family.size[0] * family.size[1] // family.patch**2

    def look(func, q, k, v, heads, *args, **named):
        end = family.before + tokens if family.joint else 0
        length = k.shape[-2] if family.joint else tokens
        joined = [with_heads(x, heads) for x in (q, k)]
        if not family.joint and q.shape[-2] == k.shape[-2] == pixels != tokens:
            own[:] = [masked_maps(*joined, heads).mean(1)[0]]
        if q.shape[-2] >= end + pixels and k.shape[-2] == length and k.shape[-2] >= tokens:
            seen = masked_maps(*joined, heads, *args, **named).mean(1)[0]
            first_token, begin = places(family, tokens, pixels) if family.joint else (0, 0)
            word = [first_token + t for t in controller.controller.source.tokens_of("cat")]
            if family.joint:
                image = [x[:, begin : begin + pixels] for x in joined]
                own[:] = [masked_maps(*image, heads).mean(1)[0]]
            seen = seen[begin : begin + pixels, word].sum(-1)
            for _ in range(sharpen):
                seen = own[0] @ seen
            expected.append(seen)
        return func(q, k, v, heads, *args, **named)

    stock = model.clone()
    stock.model_options["transformer_options"]["optimized_attention_override"] = look
    (cond, extra), *_ = controller.conditioning
    comfy.sample.sample(
        stock,
        comfy.sample.prepare_noise(latent(model, family)["samples"], SEED),
        STEPS,
        1.0,
        "euler",
        "simple",
        [[cond[:1], changed(extra, first)]],
        entries(family, 1, 5, 11),
        latent(model, family)["samples"],
        disable_pbar=True,
        seed=SEED,
    )
    wanted = torch.stack(expected).mean(0)
    assert relative(maps[0].flatten(), wanted) <= TOLERANCE
    if edits and not family.joint:  # aligned words: the new word looks where the old one looked
        assert relative(maps[1].flatten(), wanted) <= TOLERANCE


def unpadded(text):
    """A token a word, and no more: texts of unequal lengths, as chat models have them."""
    words = text.split()
    prompt = read_prompt(text, words, range(len(words)), len(words), str.split)
    return replace(prompt, repeats=False)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@torch.inference_mode()
def test_nothing_looks_at_what_shorter_prompts_are_padded_with(model, family, cfg):
    """Each row, edited never, is the stock run of its own text alone.

    But for those that put the picture where the longest text ends.
    """
    never = {"schedule": Schedule(Window(0, 0)), "self_injection": SelfInjection(Window(0, 0))}
    chain = (WordSwap("cat", "big black cat", **never),)
    controller = plan("a cat sits on grass and waits there now", [chain], unpadded)
    lengths = [prompt.length for prompt in controller.prompts]
    assert lengths == [9, 11]
    rows = [entries(family, 1, length, 20 + length)[0] for length in lengths]
    encoded = EncodedController.of(controller, [stacked(rows, controller)])
    if family.config == "Flux2" or family.llama:
        with pytest.raises(ValueError, match=r"Expected .* tokens"):
            ours(model, family, encoded, cfg)
        return
    result = ours(model, family, encoded, cfg)
    references = rows[0][1].get("reference_latents")
    for samples, (cond, extra) in zip((result.source, result.edited), rows, strict=True):
        given = {**extra, "reference_latents": references} if references else extra
        stock = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent(model, family)["samples"], SEED),
            STEPS,
            cfg,
            "euler",
            "simple",
            [[cond, given]],
            entries(family, 1, 5, 11),
            latent(model, family)["samples"],
            disable_pbar=True,
            seed=SEED,
        )
        if family.config not in ("Lumina2", "Omnigen2", "LongCatImage") or cond.shape[1] == 11:
            assert relative(samples["samples"], stock) <= TOLERANCE
