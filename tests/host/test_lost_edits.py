"""Where an edit would be left out by other nodes' doing, there is an error that says so."""

import copy
import importlib

import comfy.samplers
import pytest
import torch
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

SETTINGS = Settings(steps=3)
TOLERANCE = 1e-5
NEVER = Window(0, 0)


def swap(window):
    injection = SelfInjection(window)
    return WordSwap("circle", "star", schedule=Schedule(window), self_injection=injection)


def stock(node):
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS[node]


def run(demo, latent, chain, model=None, positive=lambda own: None):
    encoded = build_controller(demo.clip, PROMPT, [chain])
    return sample(
        demo.model if model is None else model,
        encoded,
        negative=demo.encode(""),
        latent=latent,
        positive=positive(encoded.conditioning),
        **vars(SETTINGS),
    )


def options_of_before(demo):
    """As AutomaticCFG's attention nodes: they look at the prompts by themselves, and only they do.

    The options that they pass are those that the model had when their node ran.
    """
    model = demo.model.clone()
    options = copy.deepcopy(model.model_options)

    def calc(args):
        positive, negative = args["conds"]
        conds, call = [None, negative], (args["input"], args["sigma"])
        _, uncond = comfy.samplers.calc_cond_batch(
            args["model"], conds, *call, args["model_options"]
        )
        (cond,) = comfy.samplers.calc_cond_batch(args["model"], [positive], *call, options)
        return [cond, uncond]

    model.set_model_sampler_calc_cond_batch_function(calc)
    return model


@pytest.mark.parametrize(
    "chain",
    [(swap(Window(0, 0.8)),), (swap(Window(0.6, 1)),), (swap(NEVER), LocalBlend(("circle",)))],
    ids=["early", "late", "blend"],
)
def test_options_of_before_the_run(chain, demo, latent):
    never_acts = isinstance(chain[-1], LocalBlend)
    expected = "attention maps" if never_acts else "take its patch off this model"
    with pytest.raises(ValueError, match=expected):
        run(demo, latent, chain, options_of_before(demo))


def test_a_blend_does_not_hide_the_cause(demo, latent):
    chain = (swap(Window(0, 0.8)), LocalBlend(("circle",), ("star",)))
    with pytest.raises(ValueError, match="take its patch off this model"):
        run(demo, latent, chain, options_of_before(demo))


def test_an_edit_that_never_acts_is_not_missed(demo, latent):
    plain = run(demo, latent, (swap(NEVER),))
    result = run(demo, latent, (swap(NEVER),), options_of_before(demo))
    assert relative(result.edited["samples"], plain.edited["samples"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("window", "start", "end", "model"),
    [(Window(0, 1), 0.7, 0.71, lambda demo: None), (Window(0, 0.3), 0.6, 1, options_of_before)],
    ids=["no step inside", "edit is over"],
)
def test_a_range_that_no_edit_acts_in_is_not_missed(window, start, end, model, demo, latent):
    """The controller's prompts hold in a part of the steps only, another prompt before it."""

    def positive(own):
        node = stock("ConditioningSetTimestepRange")
        (late,) = call(node, own, start, end)
        (early,) = call(node, demo.encode(PROMPT), 0.0, start if end == 1 else 1.0)
        return call(stock("ConditioningCombine"), late, early)[0]

    result = run(demo, latent, (swap(window),), model(demo), positive)
    differs = relative(result.edited["samples"], result.source["samples"])
    assert differs > 1e-3 if end == 1 else differs <= TOLERANCE  # the late prompt is another


def through_an_area(own, demo):
    return call(stock("ConditioningSetArea"), own, 64, 128, 0, 0, 1.0)[0]


def through_a_range(own, demo):
    return call(stock("ConditioningSetTimestepRange"), own, 0.0, 0.6)[0]


def combined(own, demo):
    return call(stock("ConditioningCombine"), demo.encode("a blue square"), own)[0]


def averaged(own, demo):
    return call(stock("ConditioningAverage"), own, demo.encode("a blue square"), 0.5)[0]


@pytest.mark.parametrize(
    "node",
    [lambda own, demo: own, through_an_area, through_a_range, combined, averaged],
    ids=["as it is", "area", "range", "combined", "averaged"],
)
def test_another_sampler_given_the_controllers_positive(node, demo, latent):
    """It would take the first prompt, the source, alone."""
    encoded = build_controller(demo.clip, PROMPT, [(swap(Window()),)])
    positive = node(encoded.conditioning, demo)
    settings = (0, 2, 3.0, "euler", "normal")
    with pytest.raises(ValueError, match="P2P KSampler or P2P Guider to sample the P2P Contr"):
        call(stock("KSampler"), demo.model, *settings, positive, demo.encode(""), latent, 1.0)


def test_context_windows(demo):
    node = importlib.import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    settings = (1, 0, "standard_static", 1, False, "pyramid", 0)
    more = (False,) if "freenoise" in str(node.execute.__code__.co_varnames) else ()
    (model,) = call(node, demo.model, *settings, *more)
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    with pytest.raises(ValueError, match=r"Expected 4 latent rows .* context windows off"):
        run(demo, latent, (swap(Window()),), model)


def test_a_replacement_called_with_options_of_its_own(demo, latent):
    """As Advanced-ControlNet's reference calls them, without how precise attention is to be."""
    from comfy.patcher_extension import WrappersMP

    def forward(executor, x, timesteps, context, y, control, options, **named):
        replace = options.get("patches_replace", {})
        attn2 = {block: without(given) for block, given in replace.get("attn2", {}).items()}
        options = {**options, "patches_replace": {**replace, "attn2": attn2}}
        return executor(x, timesteps, context, y, control, options, **named)

    def without(replacement):
        def replaced(q, k, v, options):
            rest = {key: value for key, value in options.items() if key != "attn_precision"}
            return replacement(q, k, v, rest)

        return replaced

    model = demo.model.clone()
    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, forward)
    chain = (swap(Window(0, 0.8)),)
    result, plain = run(demo, latent, chain, model), run(demo, latent, chain)
    assert relative(result.edited["samples"], plain.edited["samples"]) <= TOLERANCE
