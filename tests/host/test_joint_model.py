"""The joint-attention demo model is the host's own Flux, under its own names.

The host's network, diffusers' and the one function that training calls are the same function of the
same weights: names, stacking, the order of scale and shift, positions, the timestep's scale.
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
    export_transformer,
    fill_transformer,
    velocity,
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
    with torch.inference_mode():
        latent = torch.zeros(1, config["channels"], 16, 16)
        out = model.diffusion_model(latent, torch.ones(1), torch.zeros(1, 2, config["context"]))
    if out.shape != latent.shape:
        pytest.skip("this ComfyUI's Flux puts its output together from patches of 2 alone")
    return model.diffusion_model


@pytest.fixture(scope="module")
def example():
    """(latents, noise levels, context): not square, so that rows and columns are told apart."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, JOINT_CONFIG["transformer"]["channels"], 16, 12, generator=generator)
    tokens, width = JOINT_CONFIG["text"]["tokens"], JOINT_CONFIG["transformer"]["context"]
    context = torch.randn(3, tokens, width, generator=generator)
    return x, torch.tensor([0.0317, 0.4, 1.0]), context


@torch.inference_mode()
def test_the_host_computes_what_training_does(transformer, flux, example):
    ours, _ = velocity(transformer, *example)
    assert relative(flux(*example), ours) < 1e-4


@torch.inference_mode()
def test_diffusers_computes_what_training_does(transformer, example):
    x, level, context = example
    height, width = x.shape[-2:]
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    out = transformer(
        hidden_states=x.flatten(2).mT,
        encoder_hidden_states=context,
        pooled_projections=torch.zeros(len(x), JOINT_CONFIG["transformer"]["pooled"]),
        timestep=level,
        img_ids=torch.cartesian_prod(torch.zeros(1), rows, columns),
        txt_ids=torch.zeros(context.shape[1], 3),
    ).sample
    ours, maps = velocity(transformer, *example)
    assert relative(out.mT.unflatten(2, (height, width)), ours) < 1e-4
    assert [m.shape for m in maps] == [(3, height * width, context.shape[1])] * 3
    assert all(0 < m.sum(2).max() < 1 for m in maps)  # the rest looks at pixels


@torch.inference_mode()
def test_everything_that_could_be_mixed_up_matters(transformer, example):
    x, level, context = example
    ours, _ = velocity(transformer, *example)
    for other in (
        (x, level + 1e-2, context),
        (x, level, context.flip(2)),
        (x.mT, level, context),
        (x.flip(3), level, context),
    ):
        out, _ = velocity(transformer, *other)
        out = out.mT if other[0].shape != x.shape else out
        out = out.flip(3) if other[0] is not x and other[0].shape == x.shape else out
        assert relative(out, ours) > 1e-3


def test_the_file_gives_the_weights_back(transformer, checkpoint):
    again = build_transformer()
    fill_transformer(checkpoint, again)
    for name, value in transformer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
