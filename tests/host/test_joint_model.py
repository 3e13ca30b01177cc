"""The joint-attention demo model is the host's own Flux, under its own names.

The host's network, diffusers' and the one function that training calls are the same function of the
same weights: names, stacking, the order of scale and shift, positions, the timestep's scale.
"""

import pytest
import torch
from runs import relative

pytest.importorskip("diffusers", reason="needs the headless extra: pip install .[headless]")

from p2p_core.demo.architecture import WEIGHTS
from p2p_core.demo.joint_architecture import JOINT_CONFIG
from p2p_core.demo.joint_networks import (
    JointGenerator,
    build_transformer,
    export_transformer,
    fill_transformer,
    velocity,
)
from p2p_core.demo.networks import Captions, encode_words, load_checkpoint
from p2p_core.demo.training.flow import sample_latents


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
        model.time_text_embed.text_embedder.linear_1.weight.zero_()  # as it is built, and stays
    return model


@pytest.fixture(scope="module")
def checkpoint(transformer, tmp_path_factory):
    return export_transformer(tmp_path_factory.mktemp("joint"), transformer)


@pytest.fixture(scope="module")
def flux(checkpoint):
    """The host's model, as P2P Demo Checkpoint loads it."""
    from p2p_core.hosts.comfyui.demo_models import load_demo

    try:
        model, *_ = load_demo(checkpoint)
    except ValueError as error:
        pytest.skip(str(error))
    return model


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
    assert relative(flux.model.diffusion_model(*example), ours) < 1e-4


@pytest.fixture(scope="module")
def clip(checkpoint, flux):
    """The host's text encoder, for as many tokens as this model reads."""
    from p2p_core.hosts.comfyui.demo_models import load_demo

    return load_demo(checkpoint)[1]


@pytest.fixture(scope="module")
def captions():
    return Captions()


@pytest.fixture(scope="module")
def training(transformer, captions):
    """What training calls: with the transformer, and the first model's text encoder."""
    _, first = load_checkpoint(WEIGHTS, captions)
    generator = JointGenerator(first.text)
    generator.transformer = transformer
    return generator.eval()


@torch.inference_mode()
def test_words_are_encoded_as_in_training(clip, training, captions):
    for text in ("a big striped blue square left of a ring on the sand", ""):
        ids = captions([text])[:, : JOINT_CONFIG["text"]["tokens"]]
        theirs = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
        assert relative(theirs, encode_words(training.text, ids)) < 1e-4


def test_the_host_samples_as_training_does(training, flux, clip, captions):
    """Noise levels, guidance, the latents' scale, and a pooled vector that changes nothing."""
    import comfy.sample
    import comfy.samplers

    text, steps = "a red circle on the grass", 3
    ours = sample_latents(training, captions([text]), captions([""]), guidance=3.0, steps=steps)
    noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0))
    theirs = comfy.sample.sample_custom(
        flux,
        noise,
        3.0,
        comfy.samplers.sampler_object("euler"),
        torch.linspace(1, 0, steps + 1),
        *(clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (text, "")),
        torch.zeros_like(noise),
        disable_pbar=True,
    )
    assert relative(theirs * JOINT_CONFIG["latent_scale"], ours) < 1e-3


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
