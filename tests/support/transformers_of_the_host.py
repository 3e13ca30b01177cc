"""Transformers of the host's own classes, small, with random weights, and what they are given."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.chroma.model as chroma
import comfy.ldm.flux.layers as layers
import comfy.ldm.flux.model as flux
import comfy.ldm.lumina.model as lumina
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import pytest
import torch

WIDTH = 24
"""Of a token of text."""


@dataclass(frozen=True)
class Family:
    """How to build one, and what it is given."""

    config: str
    """Of the host's supported models."""
    options: dict[str, Any]
    context: int = WIDTH
    pooled: int = 0
    before: int = 0
    """Tokens before the text."""
    size: tuple[int, ...] = (8, 12)
    multiple: int = 1
    frames: int = 1
    window: int = 12
    """Tokens of a text, without its first and its last."""
    patch: int = 2
    reference: tuple[int, ...] = ()
    """Size of a reference image, where there is one."""
    joint: bool = True
    """Whether text and image share one attention."""
    image_first: bool = False
    llama: bool = False
    """Whether its text is two encoders', the second's layers twice in each block."""
    glyphs: int = 0
    """Tokens of quoted text, which stand behind its own where they do not stand before."""
    counted: bool = False
    """Whether its network counts a text's tokens by its encoder's mask, which has one row."""
    masked: bool = False
    """Whether its encoder says which tokens are padding, for the network to hide."""


FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 8,
    "context_in_dim": WIDTH,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
HUNYUAN = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": None,
    "context_in_dim": WIDTH,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": False,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 32,
    "ffn_dim": 64,
    "freq_dim": 16,
    "text_dim": WIDTH,
    "num_heads": 2,
    "num_layers": 2,
    "in_dim": 16,
    "out_dim": 16,
}
COSMOS = {
    "in_channels": 16,
    "out_channels": 16,
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 32,
    "num_blocks": 2,
    "num_heads": 1,
    "crossattn_emb_channels": WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 8,
}
KANDINSKY = {
    "in_text_dim": WIDTH,
    "in_text_dim2": 8,
    "time_dim": 16,
    "model_dim": 32,
    "ff_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}
LUMINA = {
    "image_model": "lumina2",
    "in_channels": 16,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "qk_norm": True,
    "cap_feat_dim": WIDTH,
    "axes_lens": [64, 64, 64],
}
FAMILIES = {
    "flux": Family("FluxSchnell", {"image_model": "flux", **FLUX}, pooled=8),
    "flux-kontext": Family(
        "FluxSchnell", {"image_model": "flux", **FLUX}, pooled=8, reference=(4, 6)
    ),
    "flux2": Family(
        "Flux2",
        {
            "image_model": "flux2",
            **{key: value for key, value in FLUX.items() if key != "vec_in_dim"},
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "axes_dim": [4, 4, 4, 4],
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
            "txt_ids_dims": [3],
        },
        patch=1,
        size=(4, 6),
        window=510,  # the host fills shorter ones up
    ),
    "sd3": Family(
        "SD3",
        {
            "in_channels": 16,
            "depth": 1,
            "patch_size": 2,
            "input_size": None,
            "adm_in_channels": 8,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 64},
            },
            "num_patches": 64,
            "pos_embed_max_size": 8,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
            "register_length": 3,
            "num_blocks": 2,
        },
        pooled=8,
        before=3,
    ),
    "chroma": Family(
        "Chroma",
        {
            "image_model": "chroma",
            **{k: v for k, v in FLUX.items() if k != "guidance_embed"},
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 32,
            "hidden_dim": 16,
            "n_layers": 2,
        },
    ),
    "qwen": Family(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (4, 6, 6),
        },
    ),
    "z-image": Family(
        "Lumina2",
        {
            **LUMINA,
            "dim": 256,
            "axes_dims": [32, 48, 48],
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 8,
        },
        multiple=8,
    ),
    "lumina2": Family("Lumina2", {**LUMINA, "dim": 32, "axes_dims": [4, 6, 6]}),
    "auraflow": Family(
        "AuraFlow",
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 3,
            "n_double_layers": 1,
            "n_heads": 2,
            "global_conddim": 32,
            "cond_seq_dim": WIDTH,
            "max_seq": 16 * 16,
        },
        before=8,
    ),
    "hidream": Family(
        "HiDream",
        {
            "image_model": "hidream",
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": [WIDTH, WIDTH],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 1,
            "axes_dims_rope": (4, 6, 6),
            "llama_layers": [0, 1, 1],
        },
        pooled=8,
        image_first=True,
        llama=True,
    ),
    "krea2": Family(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 32,
            "heads": 2,
            "kvheads": 1,
            "multiplier": 2,
            "layers": 2,
            "channels": 16,
            "txtdim": WIDTH // 2,
            "txtlayers": 2,
            "txtheads": 2,
            "txtkvheads": 2,
        },
    ),
    "omnigen2": Family(
        "Omnigen2",
        {
            "image_model": "omnigen2",
            "hidden_size": 32,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (4, 6, 6),
            "text_feat_dim": WIDTH,
        },
        counted=True,
    ),
    "hunyuan-video": Family(
        "HunyuanVideo",
        {"image_model": "hunyuan_video", **HUNYUAN, "vec_in_dim": 8},
        pooled=8,
        frames=2,
        size=(8, 6),
    ),
    "hunyuan-video-1.5": Family(
        "HunyuanVideo15",
        {
            "image_model": "hunyuan_video",
            **HUNYUAN,
            "in_channels": 65,
            "out_channels": 32,
            "byt5": True,
            "use_cond_type_embedding": True,
            "vision_in_dim": 8,
        },
        glyphs=4,
        before=4,
        frames=2,
        size=(8, 6),
    ),
    "hunyuan-image": Family(
        "HunyuanImage21",
        {
            "image_model": "hunyuan_video",
            **HUNYUAN,
            "in_channels": 64,
            "out_channels": 64,
            "patch_size": [1, 1],
            "axes_dim": [8, 8],
            "byt5": True,
        },
        glyphs=4,
        patch=1,
        size=(4, 6),
    ),
    "longcat": Family(
        "LongCatImage",
        {"image_model": "flux", **FLUX, "vec_in_dim": None, "txt_ids_dims": [1, 2]},
    ),
    "ovis": Family(
        "FluxSchnell",
        {
            "image_model": "flux",
            **FLUX,
            "vec_in_dim": None,
            "txt_norm": True,
            "yak_mlp": True,
            "txt_ids_dims": [1, 2],
        },
    ),
    "wan": Family("WAN21_T2V", WAN, joint=False),
    "wan-video": Family("WAN21_T2V", WAN, joint=False, frames=3, size=(8, 6)),
    "cosmos-predict2": Family(
        "CosmosT2IPredict2", {"image_model": "cosmos_predict2", **COSMOS}, joint=False
    ),
    "ltx": Family(
        "LTXV",
        {
            "image_model": "ltxv",
            "cross_attention_dim": 32,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": WIDTH,
            "num_layers": 2,
        },
        joint=False,
        frames=2,
        size=(4, 6),
        patch=1,
        masked=True,
    ),
    "kandinsky5": Family(
        "Kandinsky5Image",
        {"image_model": "kandinsky5", "visual_embed_dim": 64, **KANDINSKY},
        joint=False,
        pooled=8,
    ),
    "kandinsky5-video": Family(
        "Kandinsky5",
        {"image_model": "kandinsky5", "visual_embed_dim": 132, **KANDINSKY},
        joint=False,
        pooled=8,
        frames=2,
        size=(8, 6),
    ),
    "anima": Family("Anima", {"image_model": "anima", **COSMOS}, joint=False),
}


def built(family: Family, seed: int = 0) -> Any:
    """A model patcher of the host's class with random weights, none of them zero."""
    config = getattr(comfy.supported_models, family.config)(dict(family.options))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    if hasattr(model.diffusion_model, "llm_adapter"):  # whose class has no sizes to be given
        model.diffusion_model.llm_adapter = small_adapter(model.diffusion_model.llm_adapter)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in model.diffusion_model.named_buffers():
            if (
                name == "pos_embed"
            ):  # what a checkpoint brings, and memory as it was found till then
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def places(family, tokens, pixels):
    """Where text and image begin in the sequence of a block's joint attention."""
    if family.image_first:
        return pixels, 0
    begin = family.before + -(-tokens // family.multiple) * family.multiple
    return family.before, begin + (0 if family.before else family.glyphs)


def small_adapter(large: Any) -> Any:
    """An adapter of Anima's own class for texts of `WIDTH` channels."""
    return type(large)(
        source_dim=WIDTH,
        target_dim=WIDTH,
        model_dim=WIDTH,
        num_layers=2,
        num_heads=2,
        operations=comfy.ops.disable_weight_init,
    )


def known(family: Family) -> Family:
    """The family with the options that this host knows; older ones have fewer."""
    if not hasattr(comfy.supported_models, family.config):
        pytest.skip(f"this ComfyUI has no {family.config}")
    batches = "pad_tokens_multiple" in inspect.signature(lumina.NextDiT).parameters
    if family.config == "Lumina2" and not batches:
        pytest.skip("this ComfyUI cannot batch prompts of Lumina2, nor run Z-Image")
    flipped = "flipped_img_txt" in inspect.signature(layers.DoubleStreamBlock).parameters
    if family.options.get("image_model") == "hunyuan_video" and flipped:
        pytest.skip("this ComfyUI has the image before the text in HunyuanVideo")
    params = {"flux": flux.FluxParams, "flux2": flux.FluxParams, "chroma": chroma.ChromaParams}.get(
        family.options.get("image_model", "")
    )
    if params is None:
        return family
    names = {"image_model", *inspect.signature(params).parameters}
    if family.options.get("yak_mlp") and "yak_mlp" not in names:
        pytest.skip("this ComfyUI has no Ovis")
    return replace(family, options={k: v for k, v in family.options.items() if k in names})


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entries(family, rows, tokens, seed):
    """A conditioning of so many rows."""
    pooled = random(rows, family.pooled, seed=seed + 1) if family.pooled else None
    extra: dict[str, Any] = {"pooled_output": pooled}
    if family.llama:
        second = tokens // 3
        extra["conditioning_llama3"] = random(rows, 2, second, family.context, seed=seed + 3)
        tokens -= 2 * second
    if family.glyphs:
        extra["conditioning_byt5small"] = random(rows, family.glyphs, 1472, seed=seed + 4)
    if family.counted:
        extra["attention_mask"] = torch.ones(1, tokens).long()
    if family.masked:
        hidden = [1 + row % 2 for row in range(rows)]
        extra["attention_mask"] = torch.stack(
            [(torch.arange(tokens) < tokens - last).long() for last in hidden]
        )
    if family.reference:
        channels = family.options["in_channels"]
        extra["reference_latents"] = [random(1, channels, *family.reference, seed=seed + 2)]
    return [[random(rows, tokens, family.context, seed=seed), extra]]
