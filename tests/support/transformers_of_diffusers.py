"""Pipelines around transformers of diffusers' own classes, small, with random weights."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from small_parts import autoencoder, text_config
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from p2p_core.hosts.diffusers.demo import clip_tokenizer

WIDTH, LENGTH = 16, 20
"""Of a token of text, and tokens of a text."""
HEADS = 2
LETTERS = "abcdefghijklmnopqrstuvwxyz,"


def t5_tokenizer() -> T5Tokenizer:
    """Of single letters and a few words; “▁” begins a word."""
    words = ["▁a", "▁red", "▁circle", "▁star", "▁on", "▁the", "▁grass", "▁big"]
    pieces = ["<pad>", "</s>", "<unk>", *words, "▁", *LETTERS]
    scores = [0.0] * 3 + [-1.0] * len(words) + [-5.0] * (1 + len(LETTERS))
    vocabulary = list(zip(pieces, scores, strict=True))
    return T5Tokenizer(vocab=vocabulary, model_max_length=LENGTH, extra_ids=0)


def t5_encoder() -> T5EncoderModel:
    """Build one layer of T5."""
    config = T5Config(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def flux(patch: int = 2) -> FluxPipeline:
    """Build a Flux whose tokens are squares of so many latents a side; of 2, it takes guidance."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(scaling_factor=0.5, shift_factor=0.1),
        text_encoder=CLIPTextModel(text_config(WIDTH, 2)).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * patch * patch,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=patch == 2,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
    )


def sd3(long: bool = True) -> StableDiffusion3Pipeline:
    """Build an SD3, with T5 beside its two CLIPs or without."""
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=0.5, shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(text_config(8, 2)).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(8, 2)).eval(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder() if long else None,
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=16,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ).eval(),
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Of single bytes, as Qwen's would be that had learnt nothing."""
    alphabet = sorted(ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {one: n for n, one in enumerate([*alphabet, *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


LANGUAGE = {
    "vocab_size": 260,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}


def video_autoencoder(kind: Any, **more: Any) -> Any:
    """Build an autoencoder of videos: an eighth of the side, 4 channels."""
    return kind(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.2, 0.0, -0.1],
        latents_std=[1.0, 2.0, 0.5, 1.5],
        **more,
    ).eval()


def qwen() -> QwenImagePipeline:
    """Build a Qwen-Image."""
    text = Qwen2_5_VLConfig(
        text_config={
            **LANGUAGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=video_autoencoder(AutoencoderKLQwenImage),
        text_encoder=Qwen2_5_VLForConditionalGeneration(text).eval(),
        tokenizer=qwen_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
    )


def z_image() -> ZImagePipeline:
    """Build a Z-Image."""
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=0.5, shift_factor=0.1),
        text_encoder=Qwen3Model(Qwen3Config(**LANGUAGE)).eval(),
        tokenizer=qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[512, 64, 64],
        ).eval(),
    )


def wan(turns: bool = False) -> WanPipeline:
    """Build a Wan, of two transformers that take turns or of one."""

    def transformer() -> WanTransformer3DModel:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=HEADS,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
        ).eval()

    encoder = UMT5Config(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return WanPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=video_autoencoder(AutoencoderKLWan),
        text_encoder=UMT5EncoderModel(encoder).eval(),
        tokenizer=t5_tokenizer(),
        transformer=transformer(),
        transformer_2=transformer() if turns else None,
        boundary_ratio=0.8 if turns else None,
    )
