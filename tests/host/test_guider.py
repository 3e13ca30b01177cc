"""The guider for custom sampling, and sampling a part of the steps at a time."""

import copy

import comfy.samplers
import pytest
import torch
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import EditGuider, sample
from p2p_core.schedules import Schedule, Window

TOLERANCE = 1e-5
ACROSS_BATCHES = 5e-5
SETTINGS = Settings(steps=6)
SWAP = (WordSwap("circle", "star"),)
SAME = (WordSwap("circle", "circle"),)


@pytest.fixture
def custom():
    import comfy_extras.nodes_custom_sampler as custom_nodes

    return custom_nodes


@pytest.fixture
def encoded(demo):
    return build_controller(demo.clip, PROMPT, [SWAP, SAME])


@pytest.fixture
def run_custom(custom, demo, latent):
    """All rows that SamplerCustomAdvanced returns with a guider."""

    def run(guider, sampler="euler", sigmas=None, start=None, noisy=True):
        (noise,) = call(custom.RandomNoise, SETTINGS.seed) if noisy else call(custom.DisableNoise)
        if sigmas is None:
            (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", SETTINGS.steps, 1.0)
        (sampler,) = call(custom.KSamplerSelect, sampler)
        output, _ = call(
            custom.SamplerCustomAdvanced, noise, guider, sampler, sigmas, start or latent
        )
        return output["samples"]

    return run


def cfg_guider(demo, encoded):
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(encoded.conditioning, demo.encode(""))
    guider.set_cfg(SETTINGS.cfg)
    return guider


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_the_guider_gives_what_the_p2p_ksampler_gives(sampler, demo, encoded, run_custom, latent):
    rows = run_custom(EditGuider(cfg_guider(demo, encoded), encoded), sampler)
    settings = {**vars(SETTINGS), "sampler_name": sampler}
    result = sample(demo.model, encoded, negative=demo.encode(""), latent=latent, **settings)
    expected = torch.cat([result.source["samples"], result.edited["samples"]])
    assert relative(rows, expected) <= TOLERANCE


def test_a_split_schedule_is_one_run(custom, demo, encoded, run_custom):
    whole = run_custom(EditGuider(cfg_guider(demo, encoded), encoded))
    (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", SETTINGS.steps, 1.0)
    high, low = call(custom.SplitSigmas, sigmas, 3)
    inner = cfg_guider(demo, encoded)
    first = run_custom(EditGuider(inner, encoded, sigmas=sigmas), sigmas=high)
    second = run_custom(
        EditGuider(inner, encoded, sigmas=sigmas, continues=True),
        sigmas=low,
        start={"samples": first},
        noisy=False,
    )
    assert relative(second, whole) <= TOLERANCE


def test_two_parts_of_the_advanced_sampler_are_one_run(demo, encoded, latent):
    import nodes

    options = {"negative": demo.encode(""), **vars(SETTINGS)}
    whole = sample(demo.model, encoded, latent=latent, **options)
    first = sample(
        demo.model, encoded, latent=latent, end_at_step=3, leftover_noise=True, **options
    )
    second = sample(
        demo.model,
        encoded,
        latent=first.source,
        edited=first.edited,
        start_at_step=3,
        add_noise=False,
        **options,
    )
    assert relative(second.source["samples"], whole.source["samples"]) <= TOLERANCE
    assert relative(second.edited["samples"], whole.edited["samples"]) <= TOLERANCE
    (stock,) = nodes.KSamplerAdvanced().sample(
        demo.model,
        "enable",
        SETTINGS.seed,
        SETTINGS.steps,
        SETTINGS.cfg,
        "euler",
        "normal",
        demo.encode(PROMPT),
        demo.encode(""),
        latent,
        0,
        3,
        "enable",
    )
    assert relative(first.source["samples"], stock["samples"]) <= ACROSS_BATCHES


def test_a_part_without_leftover_noise_is_the_stock_one(demo, encoded, latent):
    import nodes

    options = {"negative": demo.encode(""), **vars(SETTINGS)}
    part = sample(demo.model, encoded, latent=latent, end_at_step=4, **options)
    (stock,) = nodes.KSamplerAdvanced().sample(
        demo.model,
        "enable",
        SETTINGS.seed,
        SETTINGS.steps,
        SETTINGS.cfg,
        "euler",
        "normal",
        demo.encode(PROMPT),
        demo.encode(""),
        latent,
        0,
        4,
        "disable",
    )
    assert relative(part.source["samples"], stock["samples"]) <= ACROSS_BATCHES


def test_no_steps_to_do_give_the_latents_back(demo, encoded):
    start = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    options = {"negative": demo.encode(""), **vars(SETTINGS)}
    result = sample(demo.model, encoded, latent=start, start_at_step=6, **options)
    assert torch.equal(result.source["samples"], start["samples"])
    assert torch.equal(result.edited["samples"], start["samples"].repeat(2, 1, 1, 1))
    assert result.masks.shape == (2, 16, 16)


def test_windows_of_a_part_refer_to_all_steps(demo, latent):
    """The swap's window is over before step 4 begins, so it does nothing there."""
    window = Schedule(Window(0, 0.5))
    swap = (
        WordSwap("circle", "star", schedule=window, self_injection=SelfInjection(Window(0, 0))),
    )
    never = (
        WordSwap(
            "circle",
            "star",
            schedule=Schedule(Window(0, 0)),
            self_injection=SelfInjection(Window(0, 0)),
        ),
    )
    encoded = build_controller(demo.clip, PROMPT, [swap, never])
    options = {"negative": demo.encode(""), **vars(SETTINGS)}
    part = sample(demo.model, encoded, latent=latent, start_at_step=4, **options)
    swapped, plain = part.edited["samples"]
    assert relative(swapped, plain) <= TOLERANCE


def test_another_guiders_guidance(custom, demo, encoded, run_custom, latent):
    """DualCFG: the controller's prompts are its first condition, its second and negative stay."""
    other, negative = demo.encode("a blue square on sand"), demo.encode("")

    def dual(first, second=other):
        (guider,) = call(
            custom.DualCFGGuider, demo.model, first, second, negative, 4.0, 2.0, "regular"
        )
        return guider

    rows = run_custom(EditGuider(dual(encoded.conditioning), encoded))
    stock = run_custom(dual(demo.encode(PROMPT)))
    assert relative(rows[:1], stock) <= ACROSS_BATCHES
    assert relative(rows[2:], rows[:1]) <= TOLERANCE
    assert relative(rows[1:2], rows[:1]) > 1e-2
    without = run_custom(EditGuider(dual(encoded.conditioning, negative), encoded))
    assert relative(without, rows) > 1e-2


def test_what_other_nodes_did_to_the_other_guiders_prompt_stays(custom, demo, encoded, run_custom):
    """The controller's own positive output, kept to the left half, may come in that way too."""
    import nodes

    def left(conditioning):
        (area,) = call(nodes.ConditioningSetArea, conditioning, 64, 128, 0, 0, 1.0)
        (guider,) = call(custom.CFGGuider, demo.model, area, demo.encode(""), SETTINGS.cfg)
        return guider

    rows = run_custom(EditGuider(left(encoded.conditioning), encoded))
    assert relative(rows[:1], run_custom(left(demo.encode(PROMPT)))) <= ACROSS_BATCHES
    assert relative(rows[2:], rows[:1]) <= TOLERANCE
    assert relative(rows[1:2], rows[:1]) > 1e-2


def test_a_guider_without_a_positive_prompt(demo, encoded):
    guider = cfg_guider(demo, encoded)
    for other in (comfy.samplers.CFGGuider(demo.model), EditGuider(guider, encoded)):
        with pytest.raises(ValueError, match="Expected a guider with a positive prompt"):
            EditGuider(other, encoded)


def test_a_distilled_models_few_steps(custom, demo, encoded, run_custom):
    """One step and no guidance, as turbo models are sampled: the edit's window begins with it."""
    reprompt = demo.encode(PROMPT.replace("circle", "star"))
    (star,) = call(custom.BasicGuider, demo.model, reprompt)
    for steps in (1, 2):
        (sigmas,) = call(custom.SDTurboScheduler, demo.model, steps, 1.0)
        (stock,) = call(custom.BasicGuider, demo.model, demo.encode(PROMPT))
        rows = run_custom(EditGuider(stock, encoded), "lcm", sigmas)
        assert relative(rows[:1], run_custom(stock, "lcm", sigmas)) <= ACROSS_BATCHES
        assert relative(rows[2:], rows[:1]) <= TOLERANCE
        assert relative(rows[1:2], run_custom(star, "lcm", sigmas)) > 1e-3


def test_the_nodes_are_the_same_sampling(pack, custom, demo, encoded, run_custom, latent):
    from prompt_to_prompt_pack.nodes.sampling import P2PGuider, P2PKSampler, P2PKSamplerAdvanced

    options = {"negative": demo.encode(""), "latent_image": latent, **vars(SETTINGS)}
    (source, edited, masks, run) = P2PKSampler.execute(demo.model, encoded, **options).args
    whole = torch.cat([source["samples"], edited["samples"]])
    assert masks.shape == (2, 16, 16)
    assert torch.equal(run.again().edited["samples"], edited["samples"])

    (sigmas,) = call(custom.BasicScheduler, demo.model, "normal", SETTINGS.steps, 1.0)
    high, low = call(custom.SplitSigmas, sigmas, 2)
    inputs = (demo.model, encoded, demo.encode(""), SETTINGS.cfg)
    (first,) = P2PGuider.execute(*inputs, whole_schedule=sigmas).args
    (second,) = P2PGuider.execute(*inputs, whole_schedule=sigmas, continues=True).args
    half = run_custom(first, sigmas=high)
    rows = run_custom(second, sigmas=low, start={"samples": half}, noisy=False)
    assert relative(rows, whole) <= TOLERANCE

    del options["denoise"]
    part = P2PKSamplerAdvanced.execute(
        demo.model,
        encoded,
        return_with_leftover_noise=True,
        add_noise=True,
        start_at_step=0,
        end_at_step=2,
        **options,
    ).args
    assert relative(torch.cat([part[0]["samples"], part[1]["samples"]]), half) <= TOLERANCE


def test_the_guider_leaves_the_other_guider_as_it_was(custom, demo, encoded, run_custom):
    guider = cfg_guider(demo, encoded)
    before = (guider.model_patcher, [id(c) for c in guider.original_conds["positive"]])
    run_custom(EditGuider(guider, encoded))
    assert before == (guider.model_patcher, [id(c) for c in guider.original_conds["positive"]])
    assert demo.model.wrappers == {}


def test_wrong_conditionings(demo, encoded, run_custom, latent):
    import nodes

    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    with pytest.raises(ValueError, match="that the P2P Controller made, got another"):
        sample(demo.model, encoded, positive=demo.encode(PROMPT), **options)
    other = build_controller(demo.clip, PROMPT, [SWAP])
    with pytest.raises(ValueError, match="sampler's own controller, got another's"):
        sample(demo.model, encoded, positive=other.conditioning, **options)
    more = torch.cat([demo.encode("more")[0][0]] * 3)
    (joined,) = nodes.ConditioningConcat().concat(encoded.conditioning, [[more, {}]])
    with pytest.raises(ValueError, match=r"of 77 tokens, got 154.*Conditioning Concat"):
        sample(demo.model, encoded, positive=joined, **options)
    with pytest.raises(ValueError, match=r"source and 2 edit\(s\) of each to go on from, got 4"):
        run_custom(
            EditGuider(cfg_guider(demo, encoded), encoded, continues=True),
            start={"samples": torch.zeros(4, 4, 16, 16)},
        )
    for shape in ((4, 4, 16, 16), (2, 4, 16, 24)):
        got = rf"2 edited latents .* \[4, 16, 16\], got {shape[0]} of \[4, 16, {shape[3]}\]"
        with pytest.raises(ValueError, match=got):
            sample(demo.model, encoded, edited={"samples": torch.zeros(shape)}, **options)


def test_a_copied_conditioning_is_still_the_controllers(demo, encoded, latent):
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    options["steps"] = 2
    plain = sample(demo.model, encoded, **options)
    copied = sample(demo.model, encoded, positive=copy.deepcopy(encoded.conditioning), **options)
    assert torch.equal(copied.edited["samples"], plain.edited["samples"])
