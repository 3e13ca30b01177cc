"""Null-text inversion beside other nodes' patches: its gradients pass them, its report counts them.

The reconstruction that an inversion tells of is what sampling makes with the same model.
"""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import call, relative

from p2p_core.demo import scenes
from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks
from p2p_core.hosts.comfyui.inverting import invert, invert_latent
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.inversion import direct
from p2p_core.inversion.methods import Options
from p2p_core.inversion.null_text import Schedule, gradient

STEPS, CFG = 3, 3.0
CAPTION = "a yellow circle in the sea"


@pytest.fixture(scope="module")
def latent(demo):
    item = scenes.Item("circle", "yellow", "plain", 50.0, 70.0, 28.0)
    picture = scenes.render(scenes.Scene((item,), "sea", (0.9, 0.0), ()))
    return demo.vae.encode(torch.from_numpy(np.asarray(picture, np.float32) / 255)[None])


def extra(module, node, *args):
    """A change of the model by a node of the host."""

    def change(model):
        (changed,) = call(
            getattr(importlib.import_module(f"comfy_extras.{module}"), node), model, *args
        )
        return changed

    return change


def one_block(model):
    """Another attention in the first block alone."""

    def replaced(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        return torch.tanh(optimized_attention(q, 2 * k, v, options["n_heads"]))

    changed = model.clone()
    changed.set_model_attn2_replace(replaced, *cross_attention_blocks(model)[0])
    return changed


def image_prompt(model):
    """Another attention for the positive prompt than for the negative, in every block."""

    def replaced(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        chunks = out.chunk(len(options["cond_or_uncond"]))
        return torch.cat(
            [
                chunk + 0.1 * (1 - 2 * which) * torch.tanh(chunk)
                for chunk, which in zip(chunks, options["cond_or_uncond"], strict=True)
            ]
        )

    changed = model.clone()
    for block in cross_attention_blocks(model):
        changed.set_model_attn2_replace(replaced, *block)
    return changed


FREE_U = extra("nodes_freelunch", "FreeU", 1.4, 1.6, 0.7, 0.3)
FREE_U_2 = extra("nodes_freelunch", "FreeU_V2", 1.6, 1.8, 0.5, 0.1)
NETWORK = {
    "one block": one_block,
    "image prompt": image_prompt,
    "FreeU": FREE_U,
    "FreeU 2": FREE_U_2,
}
GUIDANCE = {
    "RescaleCFG": extra("nodes_model_advanced", "RescaleCFG", 0.7),
    "SAG": extra("nodes_sag", "SelfAttentionGuidance", 1.0, 2.0),
    "PAG": extra("nodes_pag", "PerturbedAttentionGuidance", 3.0),
}


def gradients(demo, model, latent, low_memory):
    """The null text's own, and by finite differences along itself."""
    checked = []

    def method(task):
        x, (sigma, _) = task.latent * 3, task.steps[1]
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

        def value(tokens):
            noise = task.guided(x, sigma, replace(task.negative, tokens=tokens))
            return noise, float((noise.detach().double() * direction).sum())

        null = task.negative.tokens.clone().requires_grad_()
        with torch.enable_grad():
            found = gradient(value(null)[0], null, direction)
        step = torch.randn(null.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ends = [value(null.detach() + h * step)[1] for h in (3e-3, -3e-3)]
        checked.extend([found, (ends[0] - ends[1]) / 6e-3, float((found * step).sum())])
        return direct.invert(task)

    sigmas = torch.tensor([10.0, 2.0, 0.5, 0.0])
    texts = {"source": demo.encode(CAPTION), "negative": demo.encode("")}
    with torch.inference_mode():  # as the host runs nodes
        invert(
            model,
            method,
            **texts,
            latent=latent,
            sigmas=sigmas,
            guidance=CFG,
            low_memory=low_memory,
        )
    return checked


@pytest.mark.parametrize("change", NETWORK.values(), ids=NETWORK)
def test_gradients_pass_patches_of_the_network(change, demo, latent):
    """With blocks evaluated again as with blocks remembered: each as the block that it is."""
    model = change(demo.model)
    (again, finite, exact), (kept, *_) = (
        gradients(demo, model, latent, low) for low in (True, False)
    )
    assert relative(again, kept) <= 1e-5
    assert exact == pytest.approx(finite, rel=1e-2)
    plain, *_ = gradients(demo, demo.model, latent, True)
    assert relative(again, plain) > 1e-2


@pytest.mark.parametrize(
    "change", [*NETWORK.values(), *GUIDANCE.values()], ids=[*NETWORK, *GUIDANCE]
)
def test_the_reconstruction_is_what_sampling_makes(change, demo, latent):
    model = change(demo.model)
    settings = {"steps": STEPS, "scheduler": "normal", "denoise": 1.0, "negative": demo.encode("")}
    settings["latent"] = {"samples": latent}
    options = Options("null-text", Schedule(2))
    inversion = invert_latent(
        model, demo.clip, CAPTION, options, vae=demo.vae, guidance=CFG, **settings
    )
    encoded = build_controller(demo.clip, CAPTION, [(WordSwap("yellow", "blue"),)])
    more = {"seed": 0, "cfg": CFG, "sampler_name": "euler", "inversion": inversion}
    result = sample(model, encoded, **settings, **more)
    assert relative(result.source["samples"], inversion.reconstruction) <= 5e-5
    assert relative(result.edited["samples"], inversion.reconstruction) > 1e-2
