"""Beside other nodes' work the edit still acts, and so does the other.

Each neighbour is a change of the model, of the conditioning or of the latent, made with the stock
node. With it: the source is the stock run's, a word swapped with itself gives the source, a real
swap does not, and the result is another than without the neighbour.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import control_nets
import pytest
import torch
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.hosts.comfyui.sourcing import sample_source

TOLERANCE = 1e-5
CHAINS = [(WordSwap("circle", "circle"),), (WordSwap("circle", "star"),)]


def extra(module: str, node: str) -> Any:
    return getattr(importlib.import_module(f"comfy_extras.{module}"), node)


def stock(node: str) -> Any:
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS[node]


@dataclass(frozen=True)
class Scene:
    """What goes into a sampler."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    settings: Settings = field(default_factory=Settings)


def free_u_1(scene, demo):
    (model,) = call(extra("nodes_freelunch", "FreeU"), scene.model, 1.4, 1.6, 0.7, 0.3)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def free_u(scene, demo):
    (model,) = call(extra("nodes_freelunch", "FreeU_V2"), scene.model, 1.6, 1.8, 0.5, 0.1)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def perturbed_attention(scene, demo):
    (model,) = call(extra("nodes_pag", "PerturbedAttentionGuidance"), scene.model, 3.0)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def self_attention_guidance(scene, demo):
    (model,) = call(extra("nodes_sag", "SelfAttentionGuidance"), scene.model, 1.0, 2.0)
    large = {"samples": torch.zeros(1, 4, 24, 32)}
    return Scene(model, scene.positive, scene.negative, large)


def token_merging(scene, demo):
    (model,) = call(extra("nodes_tomesd", "TomePatchModel"), scene.model, 0.5)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def tiled_attention(scene, demo):
    (model,) = call(extra("nodes_hypertile", "HyperTile"), scene.model, 64, 1, 0, False)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def lora_weights():
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    generator = torch.Generator().manual_seed(0)
    return {
        f"{name}.lora_down.weight": torch.randn(4, 128, generator=generator),
        f"{name}.lora_up.weight": torch.randn(64, 4, generator=generator),
        f"{name}.alpha": torch.tensor(4.0),
    }


def lora(scene, demo):
    import comfy.sd

    model, _ = comfy.sd.load_lora_for_models(scene.model, None, lora_weights(), 1.0, 0.0)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def lora_of_the_positive_alone(scene, demo):
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora_weights(), 1.0, 0.0)
    node = extra("nodes_hooks", "ConditioningSetProperties")
    (positive,) = call(node, scene.positive, 1.0, "default", hooks=hooks)
    return Scene(scene.model, positive, scene.negative, scene.latent)


def image_prompt(scene, demo):
    """An attn2 replacement that adds to every layer's output, as image prompts do."""
    added = torch.randn(1, 1, 1, generator=torch.Generator().manual_seed(1))

    def replaced(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q, k, v, options["n_heads"]) + 0.3 * torch.tanh(q) + added

    model = scene.model.clone()
    for block in cross_attention_blocks(model):
        model.set_model_attn2_replace(replaced, *block)
    return Scene(model, scene.positive, scene.negative, scene.latent)


def control_net(scene, demo):
    control = control_nets.control_net(demo.model)
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    node = stock("ControlNetApplyAdvanced")
    positive, negative = call(node, scene.positive, scene.negative, control, hint, 1.0, 0.0, 1.0)
    return Scene(scene.model, positive, negative, scene.latent)


def area(scene, demo):
    (positive,) = call(stock("ConditioningSetArea"), scene.positive, 64, 128, 0, 0, 1.0)
    return Scene(scene.model, positive, scene.negative, scene.latent)


def mask(scene, demo):
    left = torch.zeros(1, 128, 128)
    left[..., :64] = 1
    (positive,) = call(stock("ConditioningSetMask"), scene.positive, left, "default", 0.8)
    return Scene(scene.model, positive, scene.negative, scene.latent)


def timestep_range(scene, demo):
    node = stock("ConditioningSetTimestepRange")
    (positive,) = call(node, scene.positive, 0.0, 0.6)
    (rest,) = call(node, demo.encode("a blue square"), 0.6, 1.0)
    (both,) = call(stock("ConditioningCombine"), positive, rest)
    return Scene(scene.model, both, scene.negative, scene.latent)


def combined(scene, demo):
    (both,) = call(stock("ConditioningCombine"), scene.positive, demo.encode("a blue square"))
    return Scene(scene.model, both, scene.negative, scene.latent)


def zeroed_negative(scene, demo):
    (negative,) = call(stock("ConditioningZeroOut"), scene.negative)
    return Scene(scene.model, scene.positive, negative, scene.latent)


def inpainting(scene, demo):
    image = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2)) / 5
    right = torch.zeros(1, 128, 128)
    right[..., 48:] = 1
    (latent,) = call(stock("SetLatentNoiseMask"), {"samples": image}, right)
    return Scene(scene.model, scene.positive, scene.negative, latent)


def no_guidance(scene, demo):
    settings = Settings(cfg=1.0)
    return Scene(scene.model, scene.positive, scene.negative, scene.latent, settings)


NEIGHBOURS = [
    free_u_1,
    free_u,
    perturbed_attention,
    self_attention_guidance,
    token_merging,
    tiled_attention,
    lora,
    lora_of_the_positive_alone,
    image_prompt,
    control_net,
    area,
    mask,
    timestep_range,
    combined,
    zeroed_negative,
    inpainting,
    no_guidance,
]


@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda neighbour: neighbour.__name__)
def test_neighbours(neighbour, demo, latent):
    encoded = build_controller(demo.clip, PROMPT, CHAINS)
    nothing = demo.encode("")
    scene = neighbour(Scene(demo.model, encoded.conditioning, nothing, latent), demo)
    result = edited(scene, encoded)
    source, same, star = result.source["samples"], *result.edited["samples"].split(1)
    plain = neighbour(Scene(demo.model, demo.encode(PROMPT), nothing, latent), demo)
    assert relative(source, ksampler(plain)) <= TOLERANCE
    assert relative(same, source) <= TOLERANCE
    assert relative(star, source) > 1e-3
    reprompt = demo.encode(PROMPT.replace("circle", "star"))
    assert (
        relative(star, ksampler(neighbour(Scene(demo.model, reprompt, nothing, latent), demo)))
        > 1e-4
    )
    without = edited(
        Scene(demo.model, encoded.conditioning, nothing, {"samples": torch.zeros_like(source)}),
        encoded,
    )
    assert relative(star, without.edited["samples"][1:]) > 1e-4


@pytest.mark.parametrize(
    "neighbour",
    [one for one in NEIGHBOURS if one is not inpainting],
    ids=lambda neighbour: neighbour.__name__,
)
def test_beside_a_source_that_is_known(neighbour, demo, latent):
    encoded = build_controller(demo.clip, PROMPT, CHAINS)
    nothing = demo.encode("")
    scene = neighbour(Scene(demo.model, encoded.conditioning, nothing, latent), demo)
    plain = neighbour(Scene(scene.model, demo.encode(PROMPT), nothing, latent), demo)
    inversion = sample_source(
        scene.model,
        demo.clip,
        PROMPT,
        positive=plain.positive,
        negative=plain.negative,
        latent=scene.latent,
        **vars(scene.settings),
    )
    mine, full = edited(scene, encoded, inversion=inversion), edited(scene, encoded)
    assert relative(mine.source["samples"], full.source["samples"]) <= TOLERANCE
    assert relative(mine.edited["samples"], full.edited["samples"]) <= TOLERANCE


def edited(scene: Scene, encoded: Any, **more: Any) -> Any:
    return sample(
        scene.model,
        encoded,
        **more,
        positive=scene.positive,
        negative=scene.negative,
        latent=scene.latent,
        **vars(scene.settings),
    )


def ksampler(scene: Scene) -> torch.Tensor:
    """The stock image, sampled three times over: a batch of as many rows as ours rounds alike."""
    settings, samples = vars(scene.settings), scene.latent["samples"]
    rows = {"samples": samples.repeat(3, 1, 1, 1), "batch_index": [0] * 3}
    (latent,) = call(
        stock("KSampler"),
        scene.model,
        settings["seed"],
        settings["steps"],
        settings["cfg"],
        settings["sampler_name"],
        settings["scheduler"],
        scene.positive,
        scene.negative,
        {**scene.latent, **rows},
        settings["denoise"],
    )
    return latent["samples"][:1]


def test_a_zeroed_positive_has_no_words_to_edit(demo, latent):
    """All prompts become the same nothing: every row is the source."""
    encoded = build_controller(demo.clip, PROMPT, CHAINS)
    (zeroed,) = call(stock("ConditioningZeroOut"), encoded.conditioning)
    result = edited(Scene(demo.model, zeroed, demo.encode(""), latent), encoded)
    source = result.source["samples"]
    assert relative(result.edited["samples"], source.repeat(2, 1, 1, 1)) <= TOLERANCE


def test_a_patch_that_adds_tokens_to_cross_attention(demo, latent):
    """Which of them are the prompt's cannot be told: no silent nonsense."""

    def more(n, context, value, options):
        return n, *(torch.cat([tokens, tokens[:, :4]], dim=1) for tokens in (context, value))

    model = demo.model.clone()
    model.set_model_attn2_patch(more)
    encoded = build_controller(demo.clip, PROMPT, CHAINS)
    scene = Scene(model, encoded.conditioning, demo.encode(""), latent)
    with pytest.raises(ValueError, match=r"6 rows over 77 text tokens each, got 6 over 81\."):
        edited(scene, encoded)
