"""Wrong input: an error that says what was expected, what came and what to do."""

import importlib

import comfy.samplers
import pytest
import torch
from runs import PROMPT, Settings, call

from p2p_core.edits import Reweight, WordSwap
from p2p_core.hosts.comfyui.attention import attach
from p2p_core.hosts.comfyui.conditioning import Payload, batched, build_controller
from p2p_core.hosts.comfyui.demo_models import load_demo
from p2p_core.hosts.comfyui.sampling import EditGuider, sample

SWAP = (WordSwap("circle", "star"),)


def test_word_that_is_not_in_the_prompt(demo):
    with pytest.raises(
        ValueError, match=r"'dog' is not in the prompt .* Its words are: a, red, circle, on"
    ):
        build_controller(demo.clip, PROMPT, [(WordSwap("dog", "cat"),)])


def test_no_text_encoder():
    with pytest.raises(ValueError, match="Expected a CLIP, got none"):
        build_controller(None, PROMPT, [SWAP])


def test_latent_of_another_model(p2p):
    latent = {"samples": torch.ones(1, 16, 16, 16)}
    with pytest.raises(
        ValueError, match=r"shape \[images, 4, height, width\], got \[1, 16, 16, 16\]"
    ):
        p2p([SWAP], latent, Settings())


def test_video_latent(p2p):
    with pytest.raises(ValueError, match=r"got \[1, 4, 2, 16, 16\]"):
        p2p([SWAP], {"samples": torch.ones(1, 4, 2, 16, 16)}, Settings())


def test_nested_latents(demo, latent, pack):
    """Into every node that takes latents: the same sentence."""
    import comfy_extras.nodes_custom_sampler as custom

    nested = pytest.importorskip("comfy.nested_tensor").NestedTensor([latent["samples"]] * 2)
    given = {"samples": nested}
    encoded = build_controller(demo.clip, PROMPT, [SWAP])
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(encoded.conditioning, demo.encode(""))
    (noise,), (sigmas,) = call(custom.RandomNoise, 1), (torch.tensor([1.0, 0.0]),)
    euler = comfy.samplers.sampler_object("euler")
    blend = importlib.import_module(f"{pack.__name__}.nodes.local_blend").P2PLocalBlend
    mask = torch.ones(1, 16, 16)
    settings = ("", "", "", 0.3, 0.2, 0.0, 0, "automatic", "union", SWAP, mask)
    for into in (
        lambda: sample(demo.model, encoded, negative=[], latent=given, **vars(Settings())),
        lambda: call(
            custom.SamplerCustomAdvanced, noise, EditGuider(guider, encoded), euler, sigmas, given
        ),
        lambda: call(blend, *settings, background=given),
    ):
        with pytest.raises(ValueError, match="batch of them, got a nested latent"):
            into()


def test_a_batch_of_no_latents(p2p):
    with pytest.raises(ValueError, match="at least one latent image, got a batch of none"):
        p2p([SWAP], {"samples": torch.zeros(0, 4, 16, 16)}, Settings())


@pytest.mark.parametrize("factor", [1e20, 1e38])
def test_a_factor_that_is_too_large(factor, p2p, latent):
    chain = (WordSwap("circle", "star"), Reweight((("red", factor),)))
    with pytest.raises(ValueError, match=r"finite latents, .* in edit 2\. A word's factor is too"):
        p2p([SWAP, chain], latent, Settings(steps=2))


def test_damaged_weights(demo, p2p, latent):
    model = demo.model.clone()
    key = "diffusion_model.out.2.weight"
    model.add_patches({key: ("diff", (torch.full_like(model.model.state_dict()[key], torch.nan),))})
    with pytest.raises(ValueError, match=r"NaN in the source and edit 1\. The model's weights"):
        p2p([SWAP], latent, Settings(steps=1), model=model)


def test_negative_prompts_that_do_not_match_the_latents(demo, p2p, latent):
    negative = [[demo.encode("")[0][0].repeat(3, 1, 1), {}]]
    with pytest.raises(ValueError, match=r"negative conditioning of 1 row or of 1 .* got 3"):
        p2p([SWAP], latent, Settings(), negative=negative)


def test_one_negative_prompt_for_each_latent_is_fine(demo, p2p):
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    texts = [demo.encode(text)[0] for text in ("", "snow")]
    negative = [[torch.cat([cond for cond, _ in texts]), {}]]
    source, edited = p2p([SWAP], latent, Settings(), negative=negative)
    alone = p2p([SWAP], latent, Settings(), negative=demo.encode(""))
    assert torch.allclose(edited[0], alone[1][0], atol=1e-3)
    assert not torch.allclose(source[1], alone[0][1], atol=1e-2)


def test_a_model_without_cross_attention(demo):
    import comfy.ldm.flux.model
    import comfy.model_patcher
    import comfy.supported_models

    sizes = {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 8,
        "context_in_dim": 8,
        "hidden_size": 48,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [8, 8, 8],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
    }
    known = comfy.ldm.flux.model.FluxParams.__dataclass_fields__
    sizes = {key: value for key, value in sizes.items() if key in known}
    config = comfy.supported_models.Flux({"image_model": "flux", **sizes})
    config.set_inference_dtype(torch.float32, None)
    device = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(config.get_model({}, ""), device, device)
    network = model.model.diffusion_model
    network.__class__ = type("Other", (type(network),), {})  # as an extension's own would be
    with pytest.raises(
        ValueError, match=r"Expected a model of a family that is known .* got Other"
    ):
        attach(model)


def test_latent_rows_that_the_controller_did_not_make(demo, latent):
    """As a stock sampler would pass them to a patched model."""
    import comfy.sample

    from p2p_core.controller import Rows

    encoded = build_controller(demo.clip, PROMPT, [SWAP])
    positive = batched(encoded.conditioning, Payload(encoded.controller, Rows(1, 1)), "positive")
    noise = torch.zeros(4, 4, 16, 16)
    with pytest.raises(ValueError, match=r"Expected 2 latent rows .* got 4"):
        comfy.sample.sample(
            attach(demo.model),
            noise,
            2,
            3.0,
            "euler",
            "normal",
            positive,
            demo.encode(""),
            noise,
            disable_pbar=True,
        )


def test_missing_demo_weights(tmp_path):
    with pytest.raises(ValueError, match=r"Expected the demo model at .* Reinstall the pack"):
        load_demo(tmp_path / "none.safetensors")


def test_another_checkpoint_as_demo_weights(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"configuration in the metadata, got other\.safetensors"):
        load_demo(tmp_path / "other.safetensors")
