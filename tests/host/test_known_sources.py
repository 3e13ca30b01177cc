"""Sources whose path is known: the network sees less, what is sampled stays the same."""

from __future__ import annotations

import pytest
import torch
from runs import PROMPT, relative
from text_tokenizers import reader
from transformers_of_the_host import FAMILIES, built, entries, known

from p2p_core.controller import plan
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import EncodedController, build_controller, source_alone
from p2p_core.hosts.comfyui.inverting import invert_latent
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.hosts.comfyui.sourcing import sample_source
from p2p_core.inversion.methods import Options
from p2p_core.lab.meter import counted
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
STEPS = 5


def swap(words, replacement, end=0.4):
    return WordSwap(
        words,
        replacement,
        schedule=Schedule(Window(0, end)),
        self_injection=SelfInjection(Window(0, end)),
    )


def settings(sampler="euler", cfg=3.0, seed=0, steps=STEPS, denoise=1.0):
    return {
        "seed": seed,
        "steps": steps,
        "cfg": cfg,
        "sampler_name": sampler,
        "scheduler": "normal",
        "denoise": denoise,
    }


def alike(result, other, tolerance=TOLERANCE):
    for name in ("source", "edited"):
        mine, theirs = (getattr(one, name)["samples"] for one in (result, other))
        assert relative(mine, theirs) <= tolerance


def unchanged_attention(model):
    """A clone with another extension's patch, which might look from row to row."""
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v))
    return patched


class OnDemo:
    """Runs of the demo model, with a source that is known and without."""

    def __init__(self, demo, latent):
        self.demo, self.latent = demo, latent

    def source(self, **more):
        given = settings(**more)
        return sample_source(
            self.demo.model,
            self.demo.clip,
            PROMPT,
            negative=self.demo.encode(""),
            latent=self.latent,
            **given,
        )

    def run(self, chains, inversion=None, model=None, latent=None, **more):
        encoded = build_controller(self.demo.clip, PROMPT, chains)
        return sample(
            model or self.demo.model,
            encoded,
            negative=self.demo.encode(""),
            latent=latent or self.latent,
            inversion=inversion,
            **{**settings(), **more},
        )


@pytest.fixture
def on_demo(demo, latent):
    return OnDemo(demo, latent)


@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpm_2", "dpmpp_sde", "dpmpp_2m", "lcm", "uni_pc"]
)
def test_a_sampled_source_is_not_sampled_again(sampler, demo, on_demo):
    chains = ((swap("red", "blue"),), (swap("circle", "square"), Reweight((("grass", 2.0),))))
    full = on_demo.run(chains, sampler_name=sampler)
    inversion = on_demo.source(sampler=sampler)
    with counted(demo.model.model.diffusion_model) as rows:
        again = on_demo.run(chains, inversion, sampler_name=sampler)
    alike(again, full)
    assert relative(again.source["samples"], full.source["samples"]) <= TOLERANCE
    assert set(rows) == {5, 4}  # sources and edits beside the edits' negative, or edits twice


@pytest.mark.parametrize("method", ["direct", "noise"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_a_given_image_is_not_sampled(method, sampler, demo, on_demo):
    clean = {"samples": on_demo.source().reconstruction}
    inversion = invert_latent(
        demo.model,
        demo.clip,
        PROMPT,
        Options(method),
        negative=demo.encode(""),
        latent=clean,
        vae=demo.vae,
        steps=STEPS,
        scheduler="normal",
        denoise=1.0,
        guidance=3.0,
    )
    runs = []
    for model, expected in ((unchanged_attention(demo.model), {4}), (demo.model, {2, 3})):
        with counted(demo.model.model.diffusion_model) as rows:
            chains = ((swap("red", "blue"),),)
            runs.append(on_demo.run(chains, inversion, model, clean, sampler_name=sampler))
        assert set(rows) == expected
    alike(*runs)


def test_each_evaluation_holds_what_is_needed(demo, on_demo):
    """The paper's arithmetic: three rows inside the windows and two outside, instead of four."""
    inversion = on_demo.source(cfg=1.0)
    guided = on_demo.source()
    chains = ((swap("red", "blue"),),)
    for known_source, cfg, expected in (
        (guided, 3.0, [3, 3, 2, 2, 2]),
        (None, 3.0, [4] * STEPS),
        (inversion, 1.0, [2, 2, 1, 1, 1]),
        (None, 1.0, [2] * STEPS),
    ):
        with counted(demo.model.model.diffusion_model) as rows:
            on_demo.run(chains, known_source, cfg=cfg)
        assert rows == expected


def test_a_local_blend_looks_at_the_source_in_every_step(demo, on_demo):
    chains = ((swap("red", "blue"), LocalBlend(("red",), ("blue",))),)
    full = on_demo.run(chains)
    inversion = on_demo.source()
    with counted(demo.model.model.diffusion_model) as rows:
        again = on_demo.run(chains, inversion)
    alike(again, full)
    assert torch.equal(again.masks, full.masks)
    assert rows == [3] * STEPS


def test_a_sampler_whose_steps_depend_on_all_rows_samples_all(demo, on_demo):
    full = on_demo.run(SWAP, sampler_name="dpm_adaptive")
    inversion = on_demo.source(sampler="dpm_adaptive")
    with counted(demo.model.model.diffusion_model) as rows:
        again = on_demo.run(SWAP, inversion, sampler_name="dpm_adaptive")
    alike(again, full, tolerance=0.0)
    assert set(rows) == {4}


def test_several_sources(demo, on_demo):
    on_demo.latent = {"samples": torch.zeros(2, 4, 16, 16)}
    chains = ((swap("red", "blue"),), (Refine("a red circle on the dark grass"),))
    full = on_demo.run(chains)
    inversion = on_demo.source()
    with counted(demo.model.model.diffusion_model) as rows:
        again = on_demo.run(chains, inversion)
    alike(again, full)
    assert rows == [10, 10, 10, 10, 8]  # Refine's window of 0.8


def test_another_patch_of_the_network_sees_every_row(demo, on_demo):
    model = unchanged_attention(demo.model)
    inversion = on_demo.source()
    with counted(demo.model.model.diffusion_model) as rows:
        on_demo.run(((swap("red", "blue"),),), inversion, model)
    assert rows == [4] * STEPS


@pytest.mark.parametrize("name", FAMILIES)
def test_in_transformers(name):
    family = known(FAMILIES[name])
    model = built(family)
    source = "a fluffy cat sits on the wet grass"
    chains = ((swap("cat", "dog", 0.5),), (Refine("a fluffy cat sits on the dry grass"),))
    controller = plan(source, chains, reader(window=family.window))
    encoded = EncodedController.of(controller, entries(family, 3, controller.length, 3))
    wanted = model.get_model_object("latent_format")
    frames = [family.frames] * (getattr(wanted, "latent_dimensions", 2) - 2)
    latent = {"samples": torch.zeros(1, wanted.latent_channels, *frames, *family.size)}
    negative = entries(family, 1, 5, 11)
    given = settings(steps=4) | {"scheduler": "simple"}
    full = sample(model, encoded, negative=negative, latent=latent, **given)
    inversion = sample_source(
        model,
        None,
        source,
        positive=source_alone(encoded),
        negative=negative,
        latent=latent,
        **given,
    )
    with counted(model.model.diffusion_model) as rows:
        again = sample(
            model, encoded, negative=negative, latent=latent, inversion=inversion, **given
        )
    alike(again, full)
    assert sum(rows) < 4 * 6


SWAP = ((swap("red", "blue"),),)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "the seed that the source was sampled with, 0, got 1"),
        ({"steps": 4}, "5 steps, as the inversion was made with, got 4 steps"),
        ({"cfg": 2.0}, "a cfg of 3, which the source was sampled with, got 2"),
        ({"sampler_name": "heun"}, "the sampler that the source was sampled with, euler, got heun"),
        ({"scheduler": "karras"}, "the scheduler normal, as .* got the scheduler karras"),
        ({"latent": {"samples": torch.zeros(1, 4, 16, 24)}}, r"\[1, 4, 16, 16\], got"),
        ({"latent": {"samples": torch.ones(1, 4, 16, 16)}}, "the latent that was inverted"),
        (
            {"latent": {"samples": torch.zeros(1, 4, 16, 16), "batch_index": [3]}},
            "the noise and at the noise level of the sampled source",
        ),
        (
            {
                "latent": {
                    "samples": torch.zeros(1, 4, 16, 16),
                    "noise_mask": torch.ones(1, 128, 128),
                }
            },
            "no noise mask beside a sampled source",
        ),
    ],
)
def test_a_source_that_was_sampled_otherwise_is_refused(changed, said, on_demo):
    with pytest.raises(ValueError, match=said):
        on_demo.run(SWAP, on_demo.source(), **changed)


def test_a_source_of_another_model_is_refused(demo, on_demo):
    other = demo.model.clone()
    name = next(name for name in other.model.state_dict() if name.endswith("attn2.to_k.weight"))
    other.add_patches({name: ("diff", (torch.ones_like(other.model.state_dict()[name]),))}, 0.5)
    with pytest.raises(ValueError, match="Expected the model that the inversion of"):
        on_demo.run(SWAP, on_demo.source(), other)


def test_an_interrupted_run_leaves_nothing(demo, on_demo):
    """Neither of sampling the source nor of sampling its edits."""
    full, calls = on_demo.run(SWAP), []

    def interrupted(module, given):
        calls.append(len(given[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt

    def hooked(run):
        calls.clear()
        hook = demo.model.model.diffusion_model.register_forward_pre_hook(interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                run()
        finally:
            hook.remove()

    hooked(on_demo.source)
    inversion = on_demo.source()
    hooked(lambda: on_demo.run(SWAP, inversion))
    again, once_more = on_demo.run(SWAP, inversion), on_demo.run(SWAP, inversion)
    alike(again, full)
    alike(once_more, again, tolerance=0.0)


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_ancestral"])
def test_a_part_of_the_steps_at_a_time(sampler, on_demo):
    """The source stays on its path; one that the run leaves is refused.

    Without noise of its own each part is as without a known source.
    """
    inversion = on_demo.source(sampler=sampler)

    def parts(known_source):
        made = on_demo.run(
            SWAP, known_source, end_at_step=2, leftover_noise=True, sampler_name=sampler
        )
        yield made
        yield on_demo.run(
            SWAP,
            known_source,
            latent=made.source,
            edited=made.edited,
            start_at_step=2,
            add_noise=False,
            sampler_name=sampler,
        )

    mine, theirs = list(parts(inversion)), list(parts(None))
    alike(mine[0], theirs[0])
    if sampler != "euler_ancestral":
        alike(mine[1], theirs[1])
    assert relative(mine[1].source["samples"], inversion.reconstruction) <= TOLERANCE
    with pytest.raises(ValueError, match="Return with leftover noise"):
        on_demo.run(SWAP, inversion, end_at_step=2, sampler_name=sampler)
