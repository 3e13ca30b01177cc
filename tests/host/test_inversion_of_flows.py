"""Images inverted on transformers of the host's own classes, small and with random weights.

Most match flows, whose latents are (1 − σ) · image + σ · noise; the methods are those of UNets.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from runs import relative
from text_tokenizers import reader
from transformers_of_the_host import FAMILIES, built, entries, known, random

from p2p_core.controller import plan
from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import EncodedController, source_alone
from p2p_core.hosts.comfyui.inverting import invert_latent
from p2p_core.hosts.comfyui.replaying import space_of
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.inversion.methods import METHODS, Options
from p2p_core.inversion.null_text import Schedule as NullTexts
from p2p_core.inversion.record import Inversion
from p2p_core.lab.meter import counted
from p2p_core.schedules import Schedule, Window

try:
    from comfy.quant_ops import ck
except ImportError:  # older hosts
    ck = None

TOLERANCE = 5e-5
STEPS, CFG = 3, 2.0
SOURCE = "a fluffy cat sits on the wet grass"
FUSED = ("CosmosT2IPredict2", "Anima") if hasattr(ck, "rms_rope_split_half") else ()
"""Families that evaluate a part of their blocks by a function without a gradient."""
RESTORED = ("direct", "direct-shared", "edit-friendly", "noise", "residual")


def swap(replacement, end=0.5):
    return WordSwap(
        "cat",
        replacement,
        schedule=Schedule(Window(0, end)),
        self_injection=SelfInjection(Window(0, end)),
    )


class Small:
    """A model of a family, a source and an edit of it, and what is inverted."""

    def __init__(self, name):
        self.family = known(FAMILIES[name])
        self.model = built(self.family)
        self.latent = self.latents(0)
        self.negative = entries(self.family, 1, 5, 11)
        self.made = {}

    def latents(self, seed):
        wanted = self.model.get_model_object("latent_format")
        frames = [self.family.frames] * (getattr(wanted, "latent_dimensions", 2) - 2)
        return random(1, wanted.latent_channels, *frames, *self.family.size, seed=seed)

    def encoded(self, replacement="dog", end=0.5, alike=False):
        chain = (swap(replacement, end),)
        controller = plan(SOURCE, [chain], reader(window=self.family.window))
        cond = entries(self.family, 2, controller.length, 3)
        if alike:
            (text, extra), *_ = cond
            same = {
                key: value[:1].expand_as(value).clone() if torch.is_tensor(value) else value
                for key, value in extra.items()
            }
            cond = [[text[:1].expand_as(text).clone(), same]]
        return EncodedController.of(controller, cond)

    def inverted(self, method, cfg=CFG, steps=STEPS):
        if (method, cfg, steps) not in self.made:
            self.made[method, cfg, steps] = invert_latent(
                self.model,
                None,
                SOURCE,
                Options(method, NullTexts(inner_steps=2)),
                positive=source_alone(self.encoded()),
                negative=self.negative,
                latent={"samples": self.latent},
                vae=None,
                steps=steps,
                scheduler="simple",
                denoise=1.0,
                guidance=cfg,
                explain=True,
            )
        return self.made[method, cfg, steps]

    def edited(self, inversion, encoded=None, model=None, **more):
        settings = {
            "negative": self.negative,
            "latent": {"samples": self.latent},
            "steps": STEPS,
            "cfg": CFG,
            "sampler_name": "euler",
            "scheduler": "simple",
            "seed": 0,
        }
        result = sample(
            model or self.model, encoded or self.encoded(), inversion=inversion, **settings | more
        )
        return result.source["samples"], result.edited["samples"]


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Small(request.param)


@pytest.fixture(scope="module")
def flux():
    return Small("flux")


@pytest.mark.parametrize("method", METHODS)
def test_the_source_row_is_the_reconstruction(method, small):
    """Beside an edit, with the edit acting; and where it is put back, it is the image."""
    if method == "null-text" and small.family.config in FUSED:
        with pytest.raises(ValueError, match="a model that gradients can pass"):
            small.inverted(method)
        return
    inversion = small.inverted(method)
    source, other = small.edited(inversion)
    assert relative(source, inversion.reconstruction) <= TOLERANCE
    assert relative(other, source) > 1e-3
    if method in RESTORED:
        assert relative(source, small.latent) <= TOLERANCE
    assert len(inversion.explained) == 1
    assert -1 <= inversion.explained[0] <= 1


@pytest.mark.parametrize("method", ["residual", "direct-shared", "edit-friendly"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_an_edit_that_changes_nothing_is_the_image(sampler, method, small):
    if method == "residual" and sampler != "euler":
        pytest.skip("its rows go back along the steps of Euler's method")
    source, row = small.edited(
        small.inverted(method), small.encoded("cat", 0.0, alike=True), sampler_name=sampler
    )
    assert relative(source, small.latent) <= TOLERANCE
    assert relative(row, source) <= TOLERANCE


def test_a_walk_is_of_the_samplers_own_space(flux):
    """On a straight line: at the first level nothing is left of the image."""
    inversion = flux.inverted("noise")
    noise = inversion.found.trajectory[0]
    image = flux.model.model.process_latent_in(flux.latent)
    for sigma, x in zip(inversion.sigmas.tolist(), inversion.found.trajectory, strict=True):
        assert relative(x, (1 - sigma) * image + sigma * noise) <= 1e-6
    assert space_of(flux.model).c_in(0.3) == 1


def test_known_sources_run_where_they_are_looked_at(flux):
    for method in ("direct", "noise", "residual"):
        inversion = flux.inverted(method)
        with counted(flux.model.model.diffusion_model) as rows:
            known_source = flux.edited(inversion)
        assert sum(rows) == 3 + 3 + 2  # two steps inside the windows
        other = flux.model.clone()
        unchanged = lambda q, k, v, **rest: {"q": q, "k": k, "v": v}  # noqa: E731
        other.set_model_attn1_patch(unchanged)  # may look from row to row
        with counted(flux.model.model.diffusion_model) as rows:
            full = flux.edited(inversion, model=other)
        assert sum(rows) == 4 * STEPS
        assert relative(torch.cat(known_source), torch.cat(full)) <= 1e-5


def test_without_guidance(flux):
    """As models with distilled guidance are run, which have no negative branch."""
    for method in METHODS:
        if method in ("null-text", "negative-prompt"):
            with pytest.raises(ValueError, match=f"a cfg other than 1 for the method {method}"):
                flux.inverted(method, cfg=1.0)
            continue
        inversion = flux.inverted(method, cfg=1.0)
        source, other = flux.edited(inversion, cfg=1.0)
        assert relative(source, inversion.reconstruction) <= TOLERANCE
        assert relative(other, source) > 1e-3


def test_null_texts_come_nearer_than_the_walk(flux):
    errors = [
        relative(flux.inverted(method).reconstruction, flux.latent)
        for method in ("ddim", "null-text")
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["flux", "wan-video"])
@pytest.mark.parametrize("method", ["residual", "null-text"])
def test_a_saved_inversion_edits_as_the_one_in_memory(name, method, tmp_path):
    small = Small(name)
    inversion = small.inverted(method)
    inversion.save(tmp_path / "one.p2p.safetensors")
    again = Inversion.load(tmp_path / "one.p2p.safetensors")
    assert again.explained == inversion.explained
    for mine, theirs in zip(small.edited(again), small.edited(inversion), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": STEPS + 1}, f"Expected {STEPS} steps"),
        ({"scheduler": "normal"}, "the scheduler simple, .* got the scheduler normal"),
        ({"latent": {"samples": torch.ones(1, 16, 8, 16)}}, "the latent that was inverted"),
        ({"latent": {"samples": torch.ones(1, 16, 8, 12)}}, "another image's"),
    ],
)
def test_a_run_that_is_not_the_inversions_says_what_differs(change, said, flux):
    with pytest.raises(ValueError, match=said):
        flux.edited(flux.inverted("residual"), **change)


def test_another_model_is_refused(flux):
    inversion = flux.inverted("residual")
    with pytest.raises(ValueError, match="the model that the inversion"):
        flux.edited(replace(inversion, probe=inversion.probe + 1))
