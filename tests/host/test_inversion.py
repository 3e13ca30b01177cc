"""Inverting images and editing them, on the real host and the demo model."""

import random
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.samplers
import numpy as np
import pytest
import torch
from runs import call, relative

from p2p_core.demo import scenes
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.demo_models import load_demo
from p2p_core.hosts.comfyui.inverting import invert, invert_latent
from p2p_core.hosts.comfyui.sampling import EditGuider, sample
from p2p_core.inversion import ddim, direct
from p2p_core.inversion.methods import METHODS, Options
from p2p_core.inversion.null_text import Schedule, gradient
from p2p_core.inversion.record import Inversion
from p2p_core.lab.meter import counted
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule as Windows
from p2p_core.schedules import Window

STEPS, CFG = 8, 3.0
SWAP = WordSwap("yellow", "blue")


@pytest.fixture(scope="module")
def image():
    """(caption, picture as float[1 h w 3])."""
    scene = scenes.Scene(
        (scenes.Item("circle", "yellow", "plain", 50.0, 70.0, 28.0),), "sea", (0.9, 0.0), ()
    )
    picture = np.asarray(scenes.render(scene), np.float32) / 255
    return "a yellow circle in the sea", torch.from_numpy(picture)[None]


@pytest.fixture(scope="module")
def inverted(demo, image):
    """Inversions by options, each made once."""
    made = {}
    caption, picture = image

    def make(method="direct", prompt=caption, pictures=picture, **more):
        key = (method, prompt, pictures.shape, tuple(sorted(more.items())))
        if key not in made:
            settings = {"steps": STEPS, "denoise": 1.0, "guidance": CFG}
            settings |= {name: more.pop(name) for name in list(more) if name in settings}
            made[key] = invert_latent(
                demo.model,
                demo.clip,
                prompt,
                Options(method, **more),
                negative=demo.encode(""),
                latent={"samples": demo.vae.encode(pictures)},
                vae=demo.vae,
                scheduler="normal",
                **settings,
            )
        return made[key]

    return make


@pytest.fixture(scope="module")
def edited(demo):
    """P2P KSampler's function on an inversion."""

    def run(inversion, *chains, **more):
        encoded = build_controller(demo.clip, more.pop("prompt", inversion.prompt), chains)
        settings = {
            "negative": demo.encode(""),
            "latent": {"samples": inversion.latent},
            "steps": len(inversion.sigmas) - 1,
            "cfg": inversion.guidance,
            "sampler_name": "euler",
            "scheduler": "normal",
            "seed": 0,
        }
        result = sample(demo.model, encoded, inversion=inversion, **settings | more)
        return result.source["samples"], result.edited["samples"]

    return run


SHORT = Schedule(inner_steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_the_source_row_is_the_reconstruction(method, inverted, edited):
    """Beside an edit, with the edit acting, and by the same arithmetic as the method's own."""
    more = {"schedule": SHORT} if method == "null-text" else {}
    inversion = inverted(method, **more)
    source, other = edited(inversion, (SWAP,))
    assert relative(source, inversion.reconstruction) <= 5e-5
    assert relative(other, source) > 1e-2


def test_direct_gives_the_image_back_whatever_the_guidance_and_the_sampler(inverted, edited):
    inversion = inverted("direct")
    for sampler in ("euler", "dpmpp_2m", "heun", "euler_ancestral", "uni_pc"):
        source, _ = edited(inversion, (SWAP,), sampler_name=sampler, cfg=7.5)
        assert relative(source, inversion.latent) <= 1e-5


@pytest.mark.parametrize("method", ["direct-shared", "edit-friendly"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_shared_paths_keep_an_edit_that_changes_nothing(method, sampler, inverted, edited):
    """Without attention injection too, which is where a free row drifts off."""
    nothing = SelfInjection(Window(0, 0))
    same = WordSwap("yellow", "yellow", schedule=Windows(Window(0, 0)), self_injection=nothing)
    settings = {"sampler_name": sampler, "cfg": 7.5, "seed": 3}
    source, row = edited(inverted(method), (same,), **settings)
    assert relative(source, inverted(method).latent) <= 1e-5
    assert relative(row, source) <= 5e-5
    _, free = edited(inverted("direct"), (same,), **settings)
    assert relative(free, source) > 1e-1
    _, changed = edited(inverted(method), (SWAP,), **settings)
    assert relative(changed, source) > 1e-2


def test_a_residual_keeps_an_edit_that_changes_nothing_without_its_source(demo, inverted, edited):
    """Its source's rows run only where the edit looks at them: here nowhere."""
    nothing = SelfInjection(Window(0, 0))
    same = WordSwap("yellow", "yellow", schedule=Windows(Window(0, 0)), self_injection=nothing)
    inversion = inverted("residual")
    with counted(demo.model.model.diffusion_model) as rows:
        source, row = edited(inversion, (same,), cfg=7.5)
    assert set(rows) == {2}
    assert relative(source, inversion.latent) <= 1e-5
    assert relative(row, source) <= 5e-5
    _, free = edited(inverted("direct"), (same,), cfg=7.5)
    assert relative(free, source) > 1e-1
    _, changed = edited(inversion, (SWAP,), cfg=7.5)
    assert relative(changed, source) > 1e-2


def test_edit_friendly_inversion_as_its_authors_write_it(demo, image, inverted, edited):
    """The noise of each DDPM step, found on the source and used in the edit."""
    ends = []

    def method(task):
        found = Options("edit-friendly")(task)
        (tokens, _), *_ = demo.encode("a blue circle in the sea")
        other = replace(task.source, tokens=tokens)
        x = found.trajectory[0]
        for n, (sigma, low) in enumerate(task.steps):
            up = low * (1 - (low / sigma) ** 2) ** 0.5
            down = (low**2 - up**2) ** 0.5
            source, against = task.denoise(found.trajectory[n], sigma, task.source, task.negative)
            image = against + CFG * (source - against)
            mean = found.trajectory[n] + (down - sigma) * (found.trajectory[n] - image) / sigma
            z = (found.trajectory[n + 1] - mean) / up if up else found.trajectory[n + 1] - mean
            changed, against = task.denoise(x, sigma, other, task.negative)
            image = against + CFG * (changed - against)
            x = x + (down - sigma) * (x - image) / sigma + (up or 1) * z
        ends.append(x)
        return found

    with torch.no_grad():
        _invert(demo, image, method)
    free = {"schedule": Windows(Window(0, 0)), "self_injection": SelfInjection(Window(0, 0))}
    swap = WordSwap("yellow", "blue", **free)
    _, row = edited(inverted("edit-friendly"), (swap,), sampler_name="euler_ancestral")
    assert relative(row, demo.model.model.process_latent_out(ends[0])) <= 1e-4


def test_null_texts_bring_the_image_back_where_ddim_does_not(inverted):
    ddim_only, null = inverted("ddim"), inverted("null-text")
    assert null.psnr[0] > ddim_only.psnr[0] + 6
    assert inverted("direct").psnr[0] > 60


def test_more_fixed_point_iterations_undo_sampling_better(inverted):
    """At guidance 1 a step's fixed point is the step itself backwards."""
    psnr = [inverted("ddim", iterations=n, guidance=1.0).psnr[0] for n in (0, 2, 6)]
    assert psnr[0] < psnr[1] < psnr[2]


def test_every_edit_acts_on_an_inverted_image(inverted, edited):
    inversion = inverted("direct")
    nothing = SelfInjection(Window(0, 0))
    chains = [
        (SWAP,),
        (Refine("a striped yellow circle in the sea"),),
        (Reweight((("yellow", -1.0),), self_injection=nothing),),
        (SWAP, LocalBlend(("yellow",), ("blue",))),
        (WordSwap("circle", "circle", schedule=Windows(), self_injection=nothing),),
    ]
    source, rows = edited(inversion, *chains)
    assert all(relative(row[None], source) > 1e-2 for row in rows[:4])
    blend = (rows[3] - source[0]).abs().amax(0)
    assert (blend == 0).any()
    assert relative(rows[1][None], rows[0][None]) > 1e-2


def test_several_images_are_inverted_as_each_by_itself(inverted, edited, image):
    """Up to where Adam goes along gradients that are as small as float's error."""
    _, picture = image
    pictures = torch.cat([picture, picture.flip(2)])
    together = inverted("null-text", pictures=pictures, schedule=SHORT)
    alone = inverted("null-text", schedule=SHORT)
    assert relative(together.reconstruction[:1], alone.reconstruction) <= 2e-2
    assert together.psnr[0] == pytest.approx(alone.psnr[0], abs=0.2)
    assert together.psnr[1] > inverted("ddim").psnr[0] + 6
    source, rows = edited(together, (SWAP,), (SWAP,))
    assert relative(source, together.reconstruction) <= 1e-4
    assert rows.shape[0] == 4


def test_images_that_are_not_square(inverted, edited, image):
    _, picture = image
    inversion = inverted("direct", pictures=picture[:, :96])
    source, rows = edited(inversion, (SWAP,))
    assert source.shape == (1, 4, 12, 16)
    assert relative(rows, source) > 1e-2


def test_gradients_of_the_null_text(demo, image):
    """Against finite differences, as they pass the real network under the host's own settings."""
    checked = []

    def method(task):
        x, (sigma, _) = task.latent * 3, task.steps[3]
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

        def value(tokens):
            noise = task.slope(x, sigma, replace(task.negative, tokens=tokens))
            return noise, float((noise.detach().double() * direction).sum())

        null = task.negative.tokens.clone().requires_grad_()
        with torch.enable_grad():
            found = gradient(value(null)[0], null, direction)
        for seed in range(3):
            step = torch.randn(null.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                ends = [value(null.detach() + h * step)[1] for h in (1e-2, -1e-2)]
            checked.append(((ends[0] - ends[1]) / 2e-2, float((found * step).sum())))
        return direct.invert(task)

    run = partial(_invert, demo, image)
    with torch.inference_mode():  # as the host runs nodes
        run(method)
        run(method, low_memory=False)
    for finite, exact in checked:
        assert exact == pytest.approx(finite, rel=1e-2)
    assert checked[0][1] == pytest.approx(checked[3][1], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(dtype, demo, image):
    """As good as in single precision, and not silently zero."""
    found = []

    def method(task):
        x, (sigma, _) = task.latent * 3, task.steps[3]
        direction = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        null = task.negative.tokens.clone().requires_grad_()
        with torch.enable_grad():
            noise = task.slope(x, sigma, replace(task.negative, tokens=null))
        found.append(gradient(noise, null, direction).flatten().double())
        return direct.invert(task)

    _invert(demo, image, method)
    own = type(demo)(*load_demo())  # rounding cannot be undone
    network = own.model.model.diffusion_model
    network.to(dtype)
    network.dtype = dtype
    _invert(own, image, method)
    assert found[1].abs().max() > 0
    assert torch.cosine_similarity(*found, dim=0) >= 0.999


def _invert(demo, image, method, **more):
    caption, picture = image
    sigmas = comfy.samplers.KSampler(
        demo.model, STEPS, demo.model.load_device, "euler", "normal", 1.0, model_options={}
    ).sigmas
    return invert(
        demo.model,
        method,
        source=demo.encode(caption),
        negative=demo.encode(""),
        latent=demo.vae.encode(picture),
        sigmas=sigmas,
        guidance=CFG,
        **more,
    )


def test_the_same_inversion_twice_and_nothing_left_changed(demo, image):
    weights = {key: value.clone() for key, value in demo.model.model.state_dict().items()}
    forwards = [m.forward.__func__ for m in demo.model.model.modules()]
    wanted = [p.requires_grad for p in demo.model.model.parameters()]
    method = Options("null-text", SHORT)
    (first, one), (second, two) = (_invert(demo, image, method) for _ in range(2))
    assert torch.equal(first.trajectory, second.trajectory)
    assert torch.equal(first.null_embeddings, second.null_embeddings)
    assert torch.equal(one, two)
    after = demo.model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    assert [m.forward.__func__ for m in demo.model.model.modules()] == forwards
    assert [p.requires_grad for p in demo.model.model.parameters()] == wanted
    assert "optimized_attention_override" not in demo.model.model_options["transformer_options"]


def test_an_interrupted_inversion_leaves_nothing_behind(demo, image):
    told = []

    def watch(progress):
        told.append(progress)
        if progress.loss is not None:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        _invert(demo, image, Options("null-text", SHORT), watch=watch)
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert all(p.total == STEPS * 4 for p in told)
    assert _invert(demo, image, direct.invert)[1].isfinite().all()


def test_the_guider_takes_an_inversion(demo, inverted, edited):
    inversion = inverted("null-text", schedule=SHORT)
    encoded = build_controller(demo.clip, inversion.prompt, [(SWAP,)])
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(encoded.conditioning, demo.encode(""))
    guider.set_cfg(CFG)
    euler = comfy.samplers.sampler_object("euler")
    nothing = torch.zeros_like(inversion.latent)
    edits = EditGuider(guider, encoded, inversion=inversion)
    result = edits.sample(nothing, inversion.latent, euler, inversion.sigmas)
    source, rows = edited(inversion, (SWAP,))
    assert torch.equal(result, torch.cat([source, rows]))
    with pytest.raises(ValueError, match="Connect DisableNoise"):
        edits.sample(nothing + 1, inversion.latent, euler, inversion.sigmas)


def test_a_saved_inversion_edits_as_the_one_in_memory(tmp_path, inverted, edited):
    inversion = inverted("null-text", schedule=SHORT)
    file = tmp_path / "one.p2p.safetensors"
    inversion.save(file)
    again = Inversion.load(file)
    assert (again.prompt, again.method, again.psnr) == (
        inversion.prompt,
        inversion.method,
        inversion.psnr,
    )
    for mine, theirs in zip(edited(again, (SWAP,)), edited(inversion, (SWAP,)), strict=True):
        assert torch.equal(mine, theirs)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": STEPS + 1}, f"Expected {STEPS} steps"),
        ({"scheduler": "karras"}, "the scheduler normal, .* got the scheduler karras"),
        ({"denoise": 0.7}, r"a denoise of 1, .* got a denoise of 0\.7"),
        ({"start_at_step": 2}, f"{STEPS} steps from .*, got {STEPS - 2} from .* sample all steps"),
        ({"prompt": "a yellow circle at night"}, "source prompt of the inversion"),
        ({"latent": {"samples": torch.ones(1, 4, 16, 16)}}, "another image's"),
        ({"latent": {"samples": torch.ones(1, 4, 16, 24)}}, "the latent that was inverted"),
        ({"cfg": 5.0}, "a cfg of 3"),
        ({"sampler_name": "dpmpp_2m"}, "the sampler euler"),
    ],
)
def test_a_run_that_is_not_the_inversions_says_what_differs(change, said, inverted, edited):
    with pytest.raises(ValueError, match=said):
        edited(inverted("null-text", schedule=SHORT), (SWAP,), **change)


def test_another_model_or_negative_is_refused(demo, inverted, edited):
    inversion = inverted("direct")
    with pytest.raises(ValueError, match="the model that the inversion"):
        edited(replace(inversion, probe=inversion.probe + 1), (SWAP,))
    with pytest.raises(ValueError, match="the negative conditioning"):
        edited(inversion, (SWAP,), negative=demo.encode("a red star"))


def test_wrong_input_to_an_inversion(demo, image, inverted):
    latent = {"samples": torch.full((1, 4, 16, 16), torch.nan)}
    settings = {
        "negative": demo.encode(""),
        "vae": demo.vae,
        "steps": 2,
        "scheduler": "normal",
        "denoise": 1.0,
        "guidance": 1.0,
    }
    make = partial(invert_latent, demo.model, demo.clip, "a star", Options("direct"))
    with pytest.raises(ValueError, match="finite numbers"):
        make(latent=latent, **settings)
    with pytest.raises(ValueError, match="noise mask"):
        make(latent={"samples": torch.ones(1, 4, 16, 16), "noise_mask": torch.ones(1)}, **settings)
    with pytest.raises(ValueError, match="images, 4, height, width"):
        make(latent={"samples": torch.ones(1, 16, 3, 16, 16)}, **settings)
    area = [[demo.encode("")[0][0], {"area": (8, 8, 0, 0)}]]
    one = {"samples": torch.ones(1, 4, 16, 16)}
    for negative, said in (
        (area, "one plain prompt, got one with an area"),
        (demo.encode("") * 2, "one plain prompt, got 2 entries"),
        ([[demo.encode("")[0][0].repeat(2, 1, 1), {}]], r"one row, .* 1 image\(s\), got 2 rows"),
    ):
        with pytest.raises(ValueError, match=said):
            make(latent=one, **settings | {"negative": negative})
    with pytest.raises(ValueError, match="denoise above 0, got 0"):
        make(latent=one, **settings | {"denoise": 0.0})
    for method in METHODS:
        assert inverted(method, steps=1).psnr[0] > 0
    with pytest.raises(ValueError, match=r"a cfg other than 1 for the method null-text"):
        inverted("null-text", steps=1, guidance=1.0)


def test_hooks_are_named(demo):
    """A LoRA that hooks schedule on the CLIP comes with every text that it encodes."""
    import comfy.hooks
    import comfy_extras.nodes_hooks as nodes

    hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    (clip,) = call(nodes.SetClipHooks, demo.clip, True, True, hooks)
    with pytest.raises(ValueError, match=r"source conditioning without hooks.* Load LoRA"):
        invert_latent(
            demo.model,
            clip,
            "a star",
            Options("null-text"),
            negative=demo.encode(""),
            latent={"samples": torch.ones(1, 4, 16, 16)},
            vae=demo.vae,
            steps=2,
            scheduler="normal",
            denoise=1.0,
            guidance=3.0,
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_a_node_makes_one_of_flows(method, demo, inverted):
    """It is inverted and edited as one: here by the host's own node."""
    import comfy_extras.nodes_model_advanced as advanced

    (flow,) = call(advanced.ModelSamplingAuraFlow, demo.model, 1.73)
    settings = {"negative": demo.encode(""), "steps": 3, "scheduler": "normal"}
    latent = {"samples": inverted("direct").latent}
    inversion = invert_latent(
        flow,
        demo.clip,
        "a yellow circle",
        Options(method, SHORT),
        latent=latent,
        vae=demo.vae,
        denoise=1.0,
        guidance=CFG,
        **settings,
    )
    encoded = build_controller(demo.clip, inversion.prompt, [(SWAP,)])
    given = settings | {"latent": latent, "seed": 0, "cfg": CFG, "sampler_name": "euler"}
    result = sample(flow, encoded, inversion=inversion, **given)
    source = result.source["samples"]
    assert relative(source, inversion.reconstruction) <= 5e-5
    assert relative(result.edited["samples"], source) > 1e-2
    with pytest.raises(ValueError, match="the noise levels that the inversion was made with"):
        sample(demo.model, encoded, inversion=inversion, **given)


def test_a_model_that_begins_with_another_image_is_refused(demo, inverted):
    import comfy.model_sampling as kinds

    if not hasattr(kinds, "IMG_TO_IMG_FLOW"):
        pytest.skip("this ComfyUI has no such kind")

    class Sampling(kinds.ModelSamplingDiscreteFlow, kinds.IMG_TO_IMG_FLOW):
        pass

    model = demo.model.clone()
    model.add_object_patch("model_sampling", Sampling(demo.model.model.model_config))
    with pytest.raises(ValueError, match="a model that samples from noise"):
        invert_latent(
            model,
            demo.clip,
            "a star",
            Options("direct"),
            negative=demo.encode(""),
            latent={"samples": inverted("direct").latent},
            vae=demo.vae,
            steps=2,
            scheduler="normal",
            denoise=1.0,
            guidance=CFG,
        )


def test_images_that_the_autoencoder_cannot_halve_are_cropped_by_the_stock_node(
    demo, image, inverted, edited
):
    import nodes

    _, picture = image
    (latent,) = nodes.VAEEncode().encode(demo.vae, picture[:, :101, :123])
    assert latent["samples"].shape == (1, 4, 12, 15)
    inversion = inverted("direct-shared", pictures=picture[:, :101, :123])
    assert inversion.psnr[0] > 60
    source, rows = edited(inversion, (SWAP,))
    assert relative(rows, source) > 1e-2


def test_an_image_without_a_caption(inverted, edited):
    inversion = inverted("direct", prompt="")
    assert inversion.psnr[0] > 60
    source, rows = edited(inversion, (Refine("a yellow circle"),))
    assert relative(rows, source) > 1e-3
    with pytest.raises(ValueError, match="only a Refine can begin a chain"):
        edited(inversion, (SWAP,))


def test_proximal_guidance_leaves_out_what_is_small(inverted, edited):
    plain, some = (inverted("negative-prompt", proximal=p) for p in (0.0, 0.7))
    (source, changed), (kept, less) = (edited(one, (SWAP,)) for one in (plain, some))
    assert relative(kept, source) <= 5e-5
    assert (less - kept).norm() < 0.97 * (changed - source).norm()


def test_a_trajectory_is_the_samplers_own_backwards(demo, image):
    """Fixed points solved to the end: each step of the walk is a step of Euler's method."""
    found, _ = _invert(demo, image, partial(ddim.invert, iterations=30))
    caption, _ = image
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(demo.encode(caption), demo.encode(""))
    guider.set_cfg(1.0)
    sigmas = comfy.samplers.KSampler(
        demo.model, STEPS, demo.model.load_device, "euler", "normal", 1.0, model_options={}
    ).sigmas
    seen = []
    start = demo.model.model.process_latent_out(found.trajectory[0])
    guider.sample(
        torch.zeros_like(start),
        start,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        callback=lambda step, x0, x, total: seen.append(x.clone()),
    )
    assert relative(torch.stack(seen[1:4]), found.trajectory[1:4]) <= 1e-2


def test_random_scenes_come_back_by_null_texts_as_by_the_autoencoder(demo):
    """Held-out scenes, the reference's schedule."""
    rng = random.Random(3)
    drawn = [scenes.sample_scene(rng) for _ in range(2)]
    pictures = torch.from_numpy(
        np.stack([np.asarray(scenes.render(scene), np.float32) / 255 for scene in drawn])
    )
    for scene, picture in zip(drawn, pictures, strict=True):
        inversion = invert_latent(
            demo.model,
            demo.clip,
            scenes.caption(scene, rng),
            Options("null-text"),
            negative=demo.encode(""),
            latent={"samples": demo.vae.encode(picture[None])},
            vae=demo.vae,
            steps=20,
            scheduler="normal",
            denoise=1.0,
            guidance=CFG,
        )
        assert inversion.psnr[0] > 30
