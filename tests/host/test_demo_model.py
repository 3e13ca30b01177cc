"""The demo model is the host's own kind: stock nodes work on it."""

import pytest
import torch
from runs import PROMPT, Settings, relative

from p2p_core.demo.architecture import CONFIG, WEIGHTS


def test_file_is_small_enough_to_ship():
    assert WEIGHTS.stat().st_size <= 32e6


def test_cross_attention_at_three_resolutions(demo):
    from p2p_core.hosts.comfyui.families.unet import cross_attention_blocks

    assert len(cross_attention_blocks(demo.model)) == 10
    assert len(CONFIG["unet"]["channels"]) == 3


def test_encode_prompt_sample_decode_with_stock_nodes(demo):
    import nodes

    (positive,) = nodes.CLIPTextEncode().encode(demo.clip, PROMPT)
    (negative,) = nodes.CLIPTextEncode().encode(demo.clip, "")
    (latent,) = nodes.EmptyLatentImage().generate(128, 128, 2)
    (sampled,) = nodes.KSampler().sample(
        demo.model, 1, 3, 3.0, "euler", "normal", positive, negative, latent
    )
    (images,) = nodes.VAEDecode().decode(demo.vae, sampled)
    assert images.shape == (2, 128, 128, 3)
    assert 0 <= images.min() < images.max() <= 1
    (again,) = nodes.VAEEncode().encode(demo.vae, images)
    assert again["samples"].shape == (2, 4, 16, 16)


def test_lora(demo, stock, latent):
    """Names as LoRA trainers write them for SD1.x."""
    import comfy.sd

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for key, (out, into) in {name: (64, 128), text: (512, 128)}.items():
        lora[f"{key}.lora_down.weight"] = torch.randn(4, into, generator=generator)
        lora[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator)
        lora[f"{key}.alpha"] = torch.tensor(4.0)
    model, clip = comfy.sd.load_lora_for_models(demo.model, demo.clip, lora, 1.0, 1.0)
    assert len(model.patches) == 1
    assert len(clip.patcher.patches) == 1
    before = stock(PROMPT, latent, Settings())
    assert relative(stock(PROMPT, latent, Settings(), model=model), before) > 1e-2
    assert relative(stock(PROMPT, latent, Settings()), before) == 0


def test_controlnet(demo, latent):
    import comfy.cldm.cldm
    import comfy.controlnet

    import nodes

    options = {
        k: v for k, v in demo.model.model.model_config.unet_config.items() if k != "out_channels"
    }
    options["transformer_depth"] = list(options["transformer_depth"])
    network = comfy.cldm.cldm.ControlNet(
        hint_channels=3, operations=comfy.ops.disable_weight_init, device="cpu", **options
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    positive, negative = demo.encode(PROMPT), demo.encode("")
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    with_control = nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, control, hint, 1.0, 0.0, 1.0
    )
    options = (demo.model, 1, 3, 3.0, "euler", "normal")
    plain = nodes.common_ksampler(*options, positive, negative, latent)[0]["samples"]
    controlled = nodes.common_ksampler(*options, *with_control, latent)[0]["samples"]
    assert relative(controlled, plain) > 1e-3


@pytest.mark.parametrize(
    ("flag", "dtype"), [("fp16_unet", torch.float16), ("bf16_unet", torch.bfloat16)]
)
def test_flags_for_the_unets_precision(flag, dtype, demo, stock, latent, monkeypatch):
    """--fp16-unet and the like: the host's own decision, not one of ours."""
    import comfy.cli_args

    from p2p_core.hosts.comfyui.demo_models import load_demo

    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    model, *_ = load_demo()
    network = model.model.diffusion_model
    assert {weight.dtype for weight in network.parameters()} == {dtype}
    before = stock(PROMPT, latent, Settings(steps=2))
    after = stock(PROMPT, latent, Settings(steps=2), model=model)
    assert relative(after, before) < 0.1  # 0 for what the file has and a processor casts back


@pytest.mark.parametrize("word", ["circle", "grass"])
def test_word_maps(word, demo):
    from p2p_core.hosts.comfyui.demo import DemoPipeline

    pipeline = DemoPipeline()
    images, maps = pipeline.sample([PROMPT, PROMPT], 0, 2, 3.0, [word, word])
    assert images.shape == (2, 128, 128, 3)
    assert maps.shape == (2, 16, 16)
    assert 0 < maps.min() <= maps.max() < 1
    without, none = pipeline.sample([PROMPT, PROMPT], 0, 2, 3.0)
    assert none is None
    assert (without == images).all()  # looking changes nothing
