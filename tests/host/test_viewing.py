"""Maps of words of a run that is over: attention as it is, looked at and left alone."""

import comfy.sample
import pytest
import torch
from runs import PROMPT, Settings, relative, run_of

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks
from p2p_core.hosts.comfyui.viewing import look
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
SETTINGS = Settings(steps=6)
SWAP = WordSwap(
    "circle", "star", schedule=Schedule(Window(0, 0.5)), self_injection=SelfInjection(Window(0, 0))
)


def test_maps_that_are_looked_at_are_the_softmaxs(demo, latent):
    """The mean over heads and layers of the full-size cross-attention, every word, every step."""
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    settings = {"negative": demo.encode(""), **vars(SETTINGS)}
    run = run_of(demo.model, encoded, latent, **settings)
    seen = {(one.row, one.word): one for one in look(run, ["star", "grass"], None, Window())}
    assert list(seen) == [(0, "grass"), (1, "star"), (1, "grass")]
    maps: dict[float, list] = {}

    def attn2(q, k, v, extra):
        q, k, v = (x.view(*x.shape[:2], extra["n_heads"], -1).transpose(1, 2) for x in (q, k, v))
        found = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        if q.shape[2] == 256 and 0 in extra["cond_or_uncond"]:
            row = extra["cond_or_uncond"].index(0)
            maps.setdefault(float(extra["sigmas"][0]), []).append(found[row, :, :, 6].mean(0))
        return (found @ v).transpose(1, 2).flatten(2)

    model = demo.model.clone()
    for block in cross_attention_blocks(model):
        model.set_model_attn2_replace(attn2, *block)
    noise = comfy.sample.prepare_noise(latent["samples"], SETTINGS.seed)
    comfy.sample.sample(
        model,
        noise,
        6,
        3.0,
        "euler",
        "normal",
        demo.encode(PROMPT),
        demo.encode(""),
        latent["samples"],
        disable_pbar=True,
        seed=0,
    )
    steps = torch.stack([torch.stack(maps[s]).mean(0).view(16, 16) for s in sorted(maps)[::-1]])
    grass = seen[0, "grass"]
    assert relative(grass.steps, steps) <= TOLERANCE
    assert relative(grass.mean, steps.mean(0)) <= TOLERANCE
    first = {one.word: one for one in look(run, ["grass"], 1.0, Window(0, 0.5)) if one.row == 0}
    assert relative(first["grass"].mean, steps[:3].mean(0)) <= TOLERANCE


def test_looking_changes_nothing_and_wrong_words_are_named(demo, latent):
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    run = run_of(demo.model, encoded, latent, negative=demo.encode(""), **vars(SETTINGS))
    before = run.again().edited["samples"]
    everything = look(run, [], None, Window())
    assert len(everything) == 12  # six words of each prompt
    assert torch.equal(run.again().edited["samples"], before)
    with pytest.raises(ValueError, match=r"'tree' is in none of the prompts 'a red circle"):
        look(run, ["tree"], None, Window())
    with pytest.raises(ValueError, match="Choose another resolution or window"):
        look(run, [], None, Window(0.01, 0.02))
    for nothing in ({"denoise": 0.0}, {"start_at_step": 9}):
        options = {"negative": demo.encode(""), **vars(SETTINGS), **nothing}
        with pytest.raises(ValueError, match=r"got one without: no steps were sampled"):
            look(run_of(demo.model, encoded, latent, **options), [], None, Window())


def test_an_edited_images_maps_are_those_that_the_edit_made(demo):
    """While the swap acts, star is looked at where each source looks at circle; then on its own."""
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    run = run_of(demo.model, encoded, latent, negative=demo.encode(""), **vars(SETTINGS))
    seen = {(one.row, one.word): one for one in look(run, ["circle", "star"], 0.5, Window())}
    assert set(seen) == {(0, "circle"), (1, "circle"), (2, "star"), (3, "star")}
    for source in (0, 1):
        circle, star = seen[source, "circle"].steps, seen[source + 2, "star"].steps
        assert circle.shape == (6, 8, 8)
        assert relative(star[:3], circle[:3]) <= TOLERANCE
        assert relative(star[3:], circle[3:]) > 1e-2
    assert relative(seen[0, "circle"].steps, seen[1, "circle"].steps) > 1e-2


def test_a_part_of_the_steps_is_looked_at_as_a_part(demo, latent):
    """The second half of a run that goes on from the first: its steps, its maps."""
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    options = {"negative": demo.encode(""), **vars(SETTINGS)}
    whole = look(run_of(demo.model, encoded, latent, **options), ["star"], None, Window(0.5, 1))
    first = run_of(demo.model, encoded, latent, end_at_step=3, leftover_noise=True, **options)
    half = first.again()
    options |= {"start_at_step": 3, "add_noise": False, "edited": half.edited}
    second = look(run_of(demo.model, encoded, half.source, **options), ["star"], None, Window())
    assert second[0].steps.shape == (3, 16, 16)
    assert relative(second[0].steps, whole[0].steps) <= TOLERANCE
    assert relative(second[0].mean, whole[0].mean) <= TOLERANCE
