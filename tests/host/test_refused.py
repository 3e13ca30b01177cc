"""Models that cannot be edited are refused by name: the host's own classes, small."""

from __future__ import annotations

from dataclasses import replace

import comfy.ldm.cosmos.model as cosmos
import comfy.ldm.hunyuan_video.model as hunyuan
import comfy.ldm.hydit.models as hydit
import comfy.ldm.pixart.pixartms as pixart
import comfy.ops
import pytest
import torch
from transformers_of_the_host import FAMILIES, built, known

from p2p_core.hosts.comfyui.attention import attach
from p2p_core.hosts.comfyui.families.refusing import known as known_families
from p2p_core.hosts.comfyui.families.transformer import Transformer

COSMOS = {"max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 16, "out_channels": 16}
COSMOS |= {"patch_spatial": 2, "patch_temporal": 1, "model_channels": 32, "num_blocks": 1}
COSMOS |= {"num_heads": 2, "crossattn_emb_channels": 16, "pos_emb_cls": "rope3d"}


def ernie(operations):
    model = pytest.importorskip("comfy.ldm.ernie.model", reason="this ComfyUI has no ERNIE-Image")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "text_in_dim": 16}
    sizes |= {"ffn_hidden_size": 64, "rope_axes_dim": (4, 6, 6)}
    return model.ErnieImageModel(operations=operations, **sizes)


REFUSED = {
    "PixArt": lambda o: pixart.PixArtMS(hidden_size=48, depth=1, num_heads=2, operations=o),
    "HunyuanDiT": lambda o: hydit.HunYuanDiT(hidden_size=32, depth=2, num_heads=2, operations=o),
    "Cosmos 1": lambda o: cosmos.GeneralDIT(operations=o, **COSMOS),
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


def test_reference_images_are_refused_where_they_look_like_the_image():
    """OmniGen2 refines them in calls of their own, as long as a block's may be."""
    family = Transformer.of(built(known(FAMILIES["omnigen2"])))
    assert family is not None
    given = {"ref_latents": [torch.zeros(1, 16, 4, 4)]}
    with pytest.raises(ValueError, match=r"Expected no reference images for OmniGen2, .* Take "):
        family.conditions(None, given)
    assert family.conditions(None, {}) == {}


def test_hunyuan_is_refused_where_the_image_stands_before_the_text():
    fields = hunyuan.HunyuanVideoParams.__dataclass_fields__
    if "use_cond_type_embedding" in fields:
        pytest.skip("this ComfyUI has the text first")
    family, names = FAMILIES["hunyuan-video"], {"image_model", *fields}
    options = {name: value for name, value in family.options.items() if name in names}
    with pytest.raises(ValueError, match="Expected a newer ComfyUI for HunyuanVideo or Hunyuan"):
        attach(built(replace(family, options=options)))


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
