"""The joint-attention demo model is the host's own Flux, under its own names.

The host's network and diffusers', which training uses, are the same function of the same weights:
names, stacking, the order of scale and shift, positions, the timestep's scale.
"""

import inspect

import pytest
import torch
from runs import relative

pytest.importorskip("diffusers", reason="needs the headless extra: pip install .[headless]")

from safetensors.torch import load_file

from p2p_core.demo.joint_architecture import JOINT_CONFIG, PREFIX
from p2p_core.demo.joint_networks import (
    build_transformer,
    call_transformer,
    export_transformer,
    fill_transformer,
)


@pytest.fixture(scope="module")
def transformer():
    """Random weights, none of them zero or alike, rounded as the file rounds them."""
    generator = torch.Generator().manual_seed(0)
    model = build_transformer().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.normal_(0, scale, generator=generator)
            parameter.copy_(parameter.half())
    return model


@pytest.fixture(scope="module")
def checkpoint(transformer, tmp_path_factory):
    return export_transformer(tmp_path_factory.mktemp("joint"), transformer)


@pytest.fixture(scope="module")
def flux(checkpoint):
    """The host's network, with the checkpoint's weights read as the host reads them."""
    import comfy.model_base
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    config = JOINT_CONFIG["transformer"]
    options = {
        "image_model": "flux",
        "in_channels": config["channels"],
        "out_channels": config["channels"],
        "vec_in_dim": config["pooled"],
        "context_in_dim": config["context"],
        "hidden_size": config["heads"] * config["head_width"],
        "mlp_ratio": float(config["mlp_ratio"]),
        "num_heads": config["heads"],
        "depth": config["double_blocks"],
        "depth_single_blocks": config["single_blocks"],
        "axes_dim": config["rope"],
        "theta": config["theta"],
        "patch_size": config["patch"],
        "qkv_bias": True,
        "guidance_embed": False,
    }
    if "txt_ids_dims" in inspect.signature(FluxParams).parameters:
        options["txt_ids_dims"] = []
    model_config = comfy.supported_models.FluxSchnell(options)
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model({}, device="cpu")
    weights = {name: value.float() for name, value in load_file(checkpoint).items()}
    model.load_model_weights(weights, PREFIX)
    return model.diffusion_model


def test_same_function_as_in_training(transformer, flux):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 16, 16, generator=generator)
    context = torch.randn(3, JOINT_CONFIG["text"]["tokens"], 128, generator=generator)
    level = torch.tensor([0.0317, 0.4, 1.0])
    with torch.inference_mode():
        ours = call_transformer(transformer, x, level, context)
        theirs = flux(x, level, context)
        elsewhere = call_transformer(transformer, x, level + 1e-2, context)
        turned = call_transformer(transformer, x.mT, level, context).mT
    assert relative(theirs, ours) < 1e-4
    assert relative(elsewhere, ours) > 1e-3  # so that the level matters
    assert relative(turned, ours) > 1e-2  # and rows and columns are told apart


def test_the_file_gives_the_weights_back(transformer, checkpoint):
    again = build_transformer()
    fill_transformer(checkpoint, again)
    for name, value in transformer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
