"""Local blend inside the host's samplers."""

import itertools

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from runs import PROMPT, Settings, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks, cross_attention_sides
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
SAMPLERS = [n for n in comfy.samplers.KSampler.SAMPLERS if not n.endswith("_gpu")]
SETTINGS = Settings(steps=6)
SWAP = WordSwap(
    "circle", "star", schedule=Schedule(Window(0, 0.5)), self_injection=SelfInjection(Window(0, 0))
)
WORDS = LocalBlend(("circle",), ("star",))


@pytest.fixture
def blended(demo, latent):
    def run(local, settings=SETTINGS, **more):
        encoded = build_controller(demo.clip, PROMPT, [(SWAP, local)])
        options = {"negative": demo.encode(""), "latent": latent, **vars(settings), **more}
        return sample(demo.model, encoded, **options)

    return run


def papers_mask(maps):
    """Above 0.3 of the maximum, pooled: bool[rows 1 height width]."""
    found = F.max_pool2d(maps, 3, 1, 1)
    return found / found.amax((2, 3), keepdim=True) > 0.3


def best_mask(maps):
    """Above the threshold that parts each best, of maps as they are: bool[rows 1 height width]."""

    def best_split(cells):
        def apart(t):
            low, high = cells[cells <= t], cells[cells > t]
            return len(low) * len(high) * (low.mean() - high.mean()) ** 2

        return max(cells.sort().values[:-1], key=apart)

    return torch.stack([one > best_split(one.flatten()) for one in maps])


def explicit_loop(demo, latent, start, mask_of=papers_mask, keep="latents", sharpen=0):
    """Euler, maps made in the open and edited, the latent blended after each step.

    Or values of self-attention outside the mask of the step before are the source's, or both.
    """
    total, model = {"maps": 0}, demo.model.clone()

    def attn2(q, k, v, extra):
        q, k, v = (x.view(*x.shape[:2], extra["n_heads"], -1).transpose(1, 2) for x in (q, k, v))
        maps = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        row = extra["cond_or_uncond"].index(0) * 2
        if int((extra["sample_sigmas"] - extra["sigmas"][0]).abs().argmin()) < 3:
            maps[row + 1] = maps[row]
        if q.shape[2] == 256:
            word = maps[row : row + 2, :, :, 3].mean(1)  # circle and star are token 3
            for _ in range(sharpen):
                word = (total["own"][row : row + 2] @ word[..., None])[..., 0]
            total["maps"] = total["maps"] + word.view(2, 1, 16, 16)
        return (maps @ v).transpose(1, 2).flatten(2)

    def attn1(q, k, v, extra):
        if "mask" in total and keep != "latents":
            row = extra["cond_or_uncond"].index(0) * 2
            side = round(q.shape[1] ** 0.5)
            inside = F.max_pool2d(total["mask"], 16 // side)[0, 0].flatten() > 0
            v = v.clone()
            v[row + 1, ~inside] = v[row, ~inside]
        q, k, v = (x.view(*x.shape[:2], extra["n_heads"], -1).transpose(1, 2) for x in (q, k, v))
        maps = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        total["own"] = maps.mean(1)
        return (maps @ v).transpose(1, 2).flatten(2)

    for block in cross_attention_blocks(model):
        model.set_model_attn2_replace(attn2, *block)
        model.set_model_attn1_replace(attn1, *block)

    def euler(network, noise, sigmas, extra_args=None, callback=None, disable=None):
        x = noise
        for i in range(len(sigmas) - 1):
            denoised = network(x, sigmas[i] * x.new_ones(2), **extra_args)
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
            if (i + 1) / (len(sigmas) - 1) > start:
                mask = mask_of(total["maps"]).float()
                total["mask"] = torch.maximum(mask[:1], mask[1:])
                if keep != "values":
                    x = x[:1] + total["mask"] * (x - x[:1])
        return x

    guider = comfy.samplers.CFGGuider(model)
    texts = (PROMPT, PROMPT.replace("circle", "star"))
    positive = torch.cat([demo.encode(text)[0][0] for text in texts])
    guider.set_conds([[positive, {}]], demo.encode(""))
    guider.set_cfg(SETTINGS.cfg)
    stock = comfy.samplers.KSampler(demo.model, 6, "cpu", "euler", "normal", 1.0)
    noise = comfy.sample.prepare_noise(latent["samples"], SETTINGS.seed).repeat(2, 1, 1, 1)
    x = guider.sample(
        noise,
        latent["samples"].repeat(2, 1, 1, 1),
        comfy.samplers.KSAMPLER(euler),
        stock.sigmas,
        disable_pbar=True,
        seed=0,
    )
    return x, total["mask"][:, 0]


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_euler_is_the_explicit_loop(start, demo, blended, latent):
    result = blended(LocalBlend(("circle",), ("star",), start=start))
    expected, mask = explicit_loop(demo, latent, start)
    assert 0 < mask.mean() < 1
    assert torch.equal(result.masks, mask)
    assert relative(result.source["samples"], expected[:1]) <= TOLERANCE
    assert relative(result.edited["samples"], expected[1:]) <= TOLERANCE


@pytest.mark.parametrize("keep", ["values", "both"])
@pytest.mark.parametrize("patched", [False, True])
def test_values_outside_the_mask_of_the_step_before(keep, patched, demo, latent):
    """As made in the open, where another extension has a patch of self-attention, too."""
    model = demo.model.clone()
    if patched:
        model.set_model_attn1_patch(lambda n, context, value, extra: (n, context, value))
    local = LocalBlend(("circle",), ("star",), keep_background=keep)
    encoded = build_controller(demo.clip, PROMPT, [(SWAP, local)])
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    result = sample(model, encoded, **options)
    expected, mask = explicit_loop(demo, latent, 0.2, keep=keep)
    assert 0 < mask.mean() < 1
    assert torch.equal(result.masks, mask)
    assert relative(result.source["samples"], expected[:1]) <= TOLERANCE
    assert relative(result.edited["samples"], expected[1:]) <= TOLERANCE
    other, _ = explicit_loop(demo, latent, 0.2, keep="latents")
    assert relative(result.edited["samples"], other[1:]) > 100 * TOLERANCE


@pytest.mark.parametrize("patched", [False, True])
def test_maps_sharpened_by_self_attention(patched, demo, latent):
    """Twice, each layer's by its own, as the self-attention of the same block made it."""
    model = demo.model.clone()
    if patched:
        model.set_model_attn1_patch(lambda n, context, value, extra: (n, context, value))
    local = LocalBlend(("circle",), ("star",), threshold=None, sharpen=2)
    encoded = build_controller(demo.clip, PROMPT, [(SWAP, local)])
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    result = sample(model, encoded, **options)
    expected, mask = explicit_loop(demo, latent, 0.2, mask_of=best_mask, sharpen=2)
    assert 0 < mask.mean() < 1
    assert torch.equal(result.masks, mask)
    assert relative(result.edited["samples"], expected[1:]) <= TOLERANCE
    assert not torch.equal(explicit_loop(demo, latent, 0.2, mask_of=best_mask)[1], mask)


def test_self_attention_that_another_extension_replaced_sharpens_nothing(demo, latent):
    model = demo.model.clone()
    for block in cross_attention_blocks(model):
        model.set_model_attn1_replace(lambda q, k, v, extra: v, *block)
    local = LocalBlend(("circle",), ("star",), sharpen=1)
    encoded = build_controller(demo.clip, PROMPT, [(SWAP, local)])
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    with pytest.raises(ValueError, match="self-attention to sharpen maps by, got none"):
        sample(model, encoded, **options)


def test_a_known_source_runs_for_its_values(demo, latent):
    """Outside the windows nothing else asks for it."""
    from p2p_core.hosts.comfyui.sourcing import sample_source

    settings = vars(SETTINGS)
    common = {"negative": demo.encode(""), "latent": latent, **settings}
    inversion = sample_source(demo.model, demo.clip, PROMPT, **common)
    white = torch.ones(1, 16, 16)
    white[..., 5:] = 0
    local = LocalBlend(user_mask=white, keep_background="values")
    encoded = build_controller(demo.clip, PROMPT, [(SWAP, local)])
    full = sample(demo.model, encoded, **common)
    again = sample(demo.model, encoded, **common, inversion=inversion)
    assert relative(again.edited["samples"], full.edited["samples"]) <= TOLERANCE


def test_smoothed_maps_and_otsus_threshold(demo, blended, latent):
    """Made in the open from their definitions, at every step."""

    def mask_of(maps):
        kernel = torch.exp(-(torch.arange(-3.0, 4) ** 2) / 2)
        kernel = torch.outer(kernel, kernel)[None, None] / kernel.sum() ** 2
        blurred = F.conv2d(F.pad(maps, (3, 3, 3, 3), mode="replicate"), kernel)
        return best_mask(blurred)

    result = blended(LocalBlend(("circle",), ("star",), threshold=None, smoothing=1.0))
    expected, mask = explicit_loop(demo, latent, 0.2, mask_of)
    assert 0 < mask.mean() < 1
    assert torch.equal(result.masks, mask)
    assert relative(result.edited["samples"], expected[1:]) <= TOLERANCE
    assert not torch.equal(blended(WORDS).masks, mask)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_the_mask_every_samplers_edit_is_the_source(sampler, blended):
    result = blended(WORDS, Settings(steps=6, sampler_name=sampler))
    source, edited = result.source["samples"], result.edited["samples"]
    outside = (result.masks == 0)[:, None].expand_as(source)
    assert outside.any()
    assert not outside.all()
    assert (edited - source)[outside].abs().max() <= 1e-5 * source.abs().max()
    assert relative(edited, source) > 1e-3


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_everything(demo, blended, latent):
    full = blended(LocalBlend(user_mask=torch.ones(1, 64, 64)))
    plain = sample(
        demo.model,
        build_controller(demo.clip, PROMPT, [(SWAP,)]),
        negative=demo.encode(""),
        latent=latent,
        **vars(SETTINGS),
    )
    assert relative(full.edited["samples"], plain.edited["samples"]) <= TOLERANCE
    none = blended(LocalBlend(user_mask=torch.zeros(1, 64, 64)))
    assert relative(none.edited["samples"], none.source["samples"]) <= TOLERANCE
    assert torch.equal(plain.masks, torch.ones(1, 16, 16))


def test_a_users_mask_joins_the_words(blended):
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    words = blended(WORDS).masks
    both = blended(LocalBlend(("circle",), ("star",), user_mask=left)).masks
    either = blended(LocalBlend(("circle",), ("star",), user_mask=left, join="union")).masks
    assert both[..., 8:].sum() == 0
    assert (both <= left).all()
    assert (either >= left).all()
    assert words.shape == both.shape == either.shape == (1, 16, 16)


def test_the_background_of_another_image(demo, blended, stock, latent):
    """Outside the mask the edited image ends as the image that was given (figure 12)."""
    other = stock("a blue square on sand", latent, Settings(seed=9))
    result = blended(LocalBlend(("circle",), ("star",), start=0.0, background=other))
    outside = (result.masks == 0)[:, None].expand_as(other)
    assert outside.any()
    assert (result.edited["samples"] - other)[outside].abs().max() <= 1e-5 * other.abs().max()
    with pytest.raises(ValueError, match="Expected a background latent of shape"):
        blended(LocalBlend(("circle",), background=torch.zeros(1, 4, 8, 8)))


def test_with_an_inpainting_mask(demo, stock, latent, blended):
    """Nothing changes where the noise mask is 0; the blend acts where it is 1."""
    image = stock(PROMPT, latent, SETTINGS)
    mask = torch.zeros(1, 128, 128)
    mask[..., 64:] = 1
    result = blended(WORDS, latent={"samples": image, "noise_mask": mask})
    kept = result.edited["samples"][..., :7] - image[..., :7]
    assert kept.abs().max() <= 1e-4 * image.abs().max()
    outside = (result.masks == 0)[:, None].expand_as(image)
    difference = (result.edited["samples"] - result.source["samples"])[outside]
    assert difference.abs().max() <= 1e-5 * image.abs().max()


def test_a_sampler_without_a_function_of_its_own(demo):
    from p2p_core.hosts.comfyui.sampling import EditGuider

    class Own(comfy.samplers.Sampler):
        pass

    encoded = build_controller(demo.clip, PROMPT, [(SWAP, WORDS)])
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(encoded.conditioning, demo.encode(""))
    zeros = torch.zeros(1, 4, 16, 16)
    with pytest.raises(ValueError, match=r"ComfyUI's own samplers for a local blend .* got Own"):
        EditGuider(guider, encoded).sample(zeros, zeros, Own(), torch.tensor([2.0, 0.0]))


def test_sides_of_the_demo_models_layers(demo, blended):
    assert cross_attention_sides(demo.model) == (1.0, 0.5, 0.25)
    with pytest.raises(ValueError, match=r"one of 1, 0.5, 0.25 times the latent's, got 0.125"):
        blended(LocalBlend(("circle",), resolution=0.125))


def test_two_images_and_two_edits_blend_each_by_its_own_mask(demo, latent):
    chains = [
        (SWAP, LocalBlend(("circle",), ("star",), softness=0.4)),
        (WordSwap("grass", "sand"), LocalBlend(edited_words=("sand",), softness=0.4)),
    ]

    def run(chains, **numbered):
        encoded = build_controller(demo.clip, PROMPT, chains)
        samples = latent["samples"].repeat(len(numbered.get("batch_index", [0, 1])), 1, 1, 1)
        options = {"negative": demo.encode(""), "latent": {"samples": samples, **numbered}}
        return sample(demo.model, encoded, **options, **vars(SETTINGS))

    together = run(chains)
    for n, chain in enumerate(chains):
        for image in (0, 1):
            alone = run([chain], batch_index=[image])
            row = slice(2 * n + image, 2 * n + image + 1)
            assert relative(alone.masks, together.masks[row]) <= 1e-4
            assert relative(alone.edited["samples"], together.edited["samples"][row]) <= 1e-4
    for one, other in itertools.combinations(together.masks, 2):
        assert relative(one, other) > 0.1


def test_words_of_a_prompt_for_an_area_have_no_map_of_the_image(demo, latent):
    import nodes

    encoded = build_controller(demo.clip, PROMPT, [(SWAP, WORDS)])
    (area,) = nodes.ConditioningSetArea().append(encoded.conditioning, 64, 128, 0, 0, 1.0)
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    with pytest.raises(ValueError, match="a conditioning of the whole image, not of an area"):
        sample(demo.model, encoded, positive=area, **options)


def test_words_that_come_into_the_run_late(demo, latent):
    """A timestep range begins after the blend does: it waits for their first maps."""
    import nodes

    encoded = build_controller(demo.clip, PROMPT, [(SWAP, WORDS)])
    ranged = nodes.ConditioningSetTimestepRange()
    (late,) = ranged.set_range(encoded.conditioning, 0.5, 1.0)
    (early,) = ranged.set_range(demo.encode(PROMPT), 0.0, 0.5)
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    result = sample(demo.model, encoded, positive=[*late, *early], **options)
    source, edited = result.source["samples"], result.edited["samples"]
    outside = (result.masks == 0)[:, None].expand_as(source)
    assert outside.any()
    assert (edited - source)[outside].abs().max() <= 1e-5 * source.abs().max()
