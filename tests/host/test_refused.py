"""Models that cannot be edited are refused by name: the host's own classes, small."""

from __future__ import annotations

import comfy.ldm.hunyuan_video.model as hunyuan_video
import comfy.ldm.hydit.models as hydit
import comfy.ldm.omnigen.omnigen2 as omnigen2
import comfy.ldm.pixart.pixartms as pixart
import comfy.ops
import pytest
import torch
from transformers_of_the_host import FAMILIES, built, known
from transformers_of_the_host import hunyuan_video as options

from p2p_core.hosts.comfyui.attention import attach
from p2p_core.hosts.comfyui.families.refusing import known as known_families

HUNYUAN = {"vec_in_dim": 8, "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0}
HUNYUAN |= {"num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6]}
OMNIGEN2 = {"hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1, "num_kv_heads": 1}
OMNIGEN2 |= {"num_attention_heads": 2, "axes_dim_rope": (4, 6, 6), "text_feat_dim": 16}


def hunyuan(operations):
    return hunyuan_video.HunyuanVideo(operations=operations, **options(**HUNYUAN))


def ernie(operations):
    model = pytest.importorskip("comfy.ldm.ernie.model", reason="this ComfyUI has no ERNIE-Image")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "text_in_dim": 16}
    sizes |= {"ffn_hidden_size": 64, "rope_axes_dim": (4, 6, 6)}
    return model.ErnieImageModel(operations=operations, **sizes)


REFUSED = {
    "PixArt": lambda o: pixart.PixArtMS(hidden_size=48, depth=1, num_heads=2, operations=o),
    "HunyuanDiT": lambda o: hydit.HunYuanDiT(hidden_size=32, depth=2, num_heads=2, operations=o),
    "HunyuanVideo or HunyuanImage": hunyuan,
    "OmniGen2": lambda o: omnigen2.OmniGen2Transformer2DModel(operations=o, **OMNIGEN2),
    "ERNIE-Image": ernie,
}
BEYOND = ("PixArt", "HunyuanDiT", "ERNIE-Image")


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_edited_is_named(name):
    model = built(known(FAMILIES["flux"]))
    model.model.diffusion_model = REFUSED[name](comfy.ops.disable_weight_init)
    kind = type(model.model.diffusion_model).__name__
    with pytest.raises(ValueError, match="Expected a model of a family that is known") as error:
        attach(model)
    said = str(error.value)
    assert f"got {name} ({kind}). " in said
    assert (f"which ComfyUI keeps out of reach in {name}" in said) == (name in BEYOND)
    assert all(family in said for family in known_families())


@torch.inference_mode()
def test_what_is_said_to_be_out_of_reach_is():
    """No attention of PixArt's blocks comes to an override."""
    network = pixart.PixArtMS(
        hidden_size=48,
        depth=1,
        num_heads=2,
        caption_channels=16,
        micro_condition=False,
        operations=comfy.ops.disable_weight_init,
    )
    network.eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    came = []

    def override(func, *args, **named):
        came.append(func)
        return func(*args, **named)

    options = {"optimized_attention_override": override}
    out = network(
        torch.randn(1, 4, 64, 64),
        torch.tensor([1.0]),
        torch.randn(1, 5, 16),
        transformer_options=options,
    )
    assert out.isfinite().all()
    assert not came
