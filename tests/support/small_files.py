"""Small files of today's models, for the host's own loaders: random weights of its own classes.

Names and shapes are those of the host's modules, built without memory. What its loaders cannot see
in a small file is noted in it; see `narrow`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.supported_models
import sentencepiece
import torch
from narrow import ADAPTER, NOTE, PIECES, TEXT_ENCODERS, VAE, VAE22, note
from safetensors.torch import save_file
from transformers_of_the_host import FAMILIES, known

META = torch.device("meta")
WIDTH = 64
"""Of a token of text, where it is free."""

TEXT = "a red car drives along a coast road, the camera follows it"
"""What Wan's tokenizer is trained on; of anything else it knows the bytes."""

Weights = dict[str, torch.Tensor]


def filled(shapes: Mapping[str, torch.Tensor]) -> Weights:
    """Random weights of these shapes, each of its own, float16: outputs are as large as inputs."""
    pool = torch.randn(2**20, generator=torch.Generator().manual_seed(0))

    def values(name: str, like: torch.Tensor) -> torch.Tensor:
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        if name.endswith("running_var"):
            return torch.ones(like.shape)
        start = zlib.crc32(name.encode()) % len(pool)
        own = pool.roll(-start).repeat(-(-like.numel() // len(pool)))[: like.numel()]
        scale = like[0].numel() ** -0.5 if like.ndim > 1 else 0.3
        return own.mul(scale).reshape(like.shape).half()

    return {name: values(name, like).contiguous() for name, like in shapes.items()}


def network(
    family: str, options: Mapping[str, Any], unseen: Iterable[str] = (), **said: str
) -> Weights:
    """Weights of one of the host's supported models.

    `unseen` are the options that a host's loader takes for granted, and `said` is more to note.
    """
    kind = getattr(comfy.supported_models, family)(dict(options))
    kind.set_inference_dtype(torch.float32, None)
    model = kind.get_model({}, device=META).diffusion_model
    if hasattr(model, "llm_adapter"):
        model.llm_adapter = type(model.llm_adapter)(
            **ADAPTER, device=META, operations=comfy.ops.disable_weight_init
        )
    weights = filled(model.state_dict())
    widths = {name: options[name] for name in unseen}
    return {**weights, NOTE: note(widths=widths, **said)} if widths else weights


def text_encoder(make: Callable[..., Any], part: str, encoder: str = "") -> Weights:
    """Weights of a part of one of the host's text encoders; `encoder` is what the host calls it."""
    model = make(device=META, dtype=torch.float16, model_options=TEXT_ENCODERS)
    shapes = getattr(model, part).transformer.state_dict()
    weights = filled({k: v for k, v in shapes.items() if not k.startswith("visual.")})
    return {**weights, NOTE: note(encoder=encoder)} if encoder else weights


def autoencoder(channels: int, normed: bool = False) -> Weights:
    """Weights of a decoder with latents of so many channels: Flux's and SD3's, `normed` Flux.2's.

    Its widths are the true ones; of the encoder there is nothing.
    """
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = {"double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3}
    sizes |= {"out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    sizes |= {"attn_resolutions": [], "dropout": 0.0}
    sizes |= {"batch_norm_latent": True} if normed else {}
    with META:
        shapes = AutoencoderKL(ddconfig=sizes, embed_dim=channels).state_dict()
    kept = ("decoder.", "post_quant_conv.", "bn.") if normed else ("decoder.",)
    return filled({k: v for k, v in shapes.items() if k.startswith(kept)})


def wan_autoencoder(channels: int) -> Weights:
    """Weights of Wan's autoencoders: 2.1 with latents of 16 channels, 2.2 with 48."""
    import comfy.ldm.wan.vae as first
    import comfy.ldm.wan.vae2_2 as second

    make, widths = (second.WanVAE, VAE22) if channels == 48 else (first.WanVAE, VAE)
    sizes = {**widths, "z_dim": channels, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    sizes |= {"attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0}
    with META:
        shapes = make(**sizes).state_dict()
    return filled(shapes)


def pieces() -> torch.Tensor:
    """Train a tokenizer of Wan's kind, a sentencepiece model as bytes."""
    words = TEXT.split()
    lines = [" ".join(words[n:] + words[:n]) for n in range(len(words))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=PIECES, model_type="unigram",
        hard_vocab_limit=False, byte_fallback=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


def write(path: Path, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


FLUX = {"hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 4}
FLUX1 = {
    **FAMILIES["flux"].options,
    **FLUX,
    "context_in_dim": 4096,
    "vec_in_dim": WIDTH,
    "axes_dim": [16, 56, 56],
    "guidance_embed": True,
}
FLUX2 = {
    **FAMILIES["flux2"].options,
    **FLUX,
    "mlp_ratio": 3.0,
    "context_in_dim": 3 * WIDTH,
    "axes_dim": [32, 32, 32, 32],
}
SD35 = {
    **FAMILIES["sd3"].options,
    "depth": 2,
    "num_blocks": None,
    "register_length": 0,
    "out_channels": 16,
    "adm_in_channels": 2 * WIDTH,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    },
    "num_patches": 32**2,
    "pos_embed_max_size": 32,
}
QWEN = {**FAMILIES["qwen"].options, "joint_attention_dim": WIDTH, "num_layers": 47}
Z_IMAGE = {**FAMILIES["z-image"].options, "cap_feat_dim": WIDTH, "pad_tokens_multiple": 32}
ANIMA = {**FAMILIES["anima"].options, "crossattn_emb_channels": WIDTH}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "ffn_dim": 64,
    "text_dim": WIDTH,
    "num_heads": 1,
    "num_layers": 2,
    "in_dim": 48,
    "out_dim": 48,
}
UNSEEN = {
    "flux": ("hidden_size", "num_heads", "context_in_dim", "vec_in_dim"),  # by older hosts
    "qwen": ("attention_head_dim", "num_attention_heads", "joint_attention_dim", "axes_dims_rope"),
    "anima": ("crossattn_emb_channels", "num_heads", "adaln_lora_dim"),
    "wan": ("text_dim",),
}
"""Options that loaders take for granted. Z-Image's width even tells it from Lumina2."""


def flux() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.flux as encoders

    clip = encoders.flux_clip(dtype_t5=torch.float16)
    options = known(replace(FAMILIES["flux"], options=FLUX1)).options
    yield "diffusion_models/flux1-dev.safetensors", network("Flux", options, UNSEEN["flux"])
    yield "text_encoders/clip_l.safetensors", text_encoder(clip, "clip_l")
    yield "text_encoders/t5xxl_fp16.safetensors", text_encoder(clip, "t5xxl")
    yield "vae/ae.safetensors", autoencoder(16)


def pixart() -> Iterator[tuple[str, Weights]]:
    """A family of the host that cannot be edited."""
    widths = {"hidden_size": 48, "num_heads": 2}
    options = {"image_model": "pixart_sigma", "micro_condition": False, "depth": 1, **widths}
    yield "diffusion_models/pixart.safetensors", network("PixArtSigma", options, widths)


def klein() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.flux as encoders

    encoder = text_encoder(encoders.klein_te(), "qwen3_4b", "QWEN3_4B")
    yield "diffusion_models/flux-2-klein-4b.safetensors", network("Flux2", FLUX2)
    yield "text_encoders/qwen_3_4b.safetensors", encoder
    yield "vae/flux2-vae.safetensors", autoencoder(32, normed=True)


def sd35() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.sd3_clip as encoders

    clip = encoders.sd3_clip(dtype_t5=torch.float16)
    parts = {
        "model.diffusion_model.": network("SD3", SD35),
        "first_stage_model.": autoencoder(16),
        **{
            f"text_encoders.{part}.transformer.": text_encoder(clip, part)
            for part in ("clip_l", "clip_g", "t5xxl")
        },
    }
    whole = {prefix + k: v for prefix, weights in parts.items() for k, v in weights.items()}
    yield "checkpoints/sd3.5_large_fp8_scaled.safetensors", whole


def qwen_image() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.qwen_image as encoders

    encoder = text_encoder(encoders.te(), "qwen25_7b", "QWEN25_7B")
    yield (
        "diffusion_models/qwen_image_fp8_e4m3fn.safetensors",
        network("QwenImage", QWEN, UNSEEN["qwen"]),
    )
    yield "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors", encoder
    yield "vae/qwen_image_vae.safetensors", wan_autoencoder(16)


def z_image() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.z_image as encoders

    encoder = text_encoder(encoders.te(), "qwen3_4b", "QWEN3_4B")
    yield (
        "diffusion_models/z_image_turbo_bf16.safetensors",
        network("ZImage", Z_IMAGE, Z_IMAGE, config="ZImage"),
    )
    yield "text_encoders/qwen_3_4b.safetensors", encoder
    yield "vae/ae.safetensors", autoencoder(16)


def anima() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.anima as encoders

    encoder = text_encoder(encoders.te(), "qwen3_06b", "QWEN3_06B")
    yield "diffusion_models/anima-base-v1.0.safetensors", network("Anima", ANIMA, UNSEEN["anima"])
    yield "text_encoders/qwen_3_06b_base.safetensors", encoder
    yield "vae/qwen_image_vae.safetensors", wan_autoencoder(16)


def wan() -> Iterator[tuple[str, Weights]]:
    import comfy.text_encoders.wan as encoders

    encoder = text_encoder(encoders.te(), "umt5xxl", "T5_XXL")
    yield (
        "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors",
        network("WAN22_T2V", WAN, UNSEEN["wan"]),
    )
    yield (
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        {**encoder, "spiece_model": pieces()},
    )
    yield "vae/wan2.2_vae.safetensors", wan_autoencoder(48)
