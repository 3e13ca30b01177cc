"""Parts of pipelines of diffusers, small, with random weights."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig


def text_config(width: int, heads: int) -> CLIPTextConfig:
    """Configure a text encoder for CLIP's own tokens."""
    return CLIPTextConfig(
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )


def autoencoder(**more: Any) -> AutoencoderKL:
    """Build one whose latents have an eighth of the image's side, and 4 channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **more,
    ).eval()
