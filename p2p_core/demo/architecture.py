"""The demo model's architecture, and its weights' names.

Training builds the three networks with diffusers and transformers; the shipped file carries the
names of a Stable Diffusion 1.x (SD1.x) checkpoint, which is what hosts read. `checkpoint_names` is
the one table between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).with_name("demo_model.safetensors")
"""The shipped checkpoint.

SD1.x names, fp16, its configuration as JSON under the metadata key "p2p_demo".
"""

CONFIG: dict[str, Any] = {
    "unet": {"channels": [64, 64, 128], "res_blocks": 1, "heads": 4, "norm_groups": 8},
    "autoencoder": {
        "channels": [32, 64, 96, 96],
        "res_blocks": 1,
        "latent_channels": 4,
        "norm_groups": 4,
    },
    "text": {"width": 128, "layers": 4, "heads": 4, "tokens": 77, "vocabulary": 49408},
    "prediction": "v",
    "latent_scale": 0.18215,
    "image_size": 128,
}

# `norm_groups`: with SD's 32 groups over so few channels GroupNorm is instance normalisation, which
# erases the mean
# colour of a picture just before the last convolution; fewer groups keep it.

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _unet_blocks(levels: int, res_blocks: int) -> dict[str, str]:
    """diffusers block prefix → SD1.x block prefix, cross-attention at every level."""
    names: dict[str, str] = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(levels):
        for i in range(res_blocks):
            block = 1 + level * (res_blocks + 1) + i
            names[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{block}.0"
            names[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{block}.1"
        if level < levels - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = (
                f"input_blocks.{(level + 1) * (res_blocks + 1)}.0.op"
            )
        for i in range(res_blocks + 1):
            block = level * (res_blocks + 1) + i
            names[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{block}.0"
            names[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{block}.1"
        if level < levels - 1:
            block = level * (res_blocks + 1) + res_blocks
            names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block}.2.conv"
    return names


def _autoencoder_blocks(levels: int, res_blocks: int) -> dict[str, str]:
    names: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        names |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_norm_out": f"{side}.norm_out",
            f"{side}.conv_out": f"{side}.conv_out",
            f"{side}.mid_block.resnets.0": f"{side}.mid.block_1",
            f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1",
            f"{side}.mid_block.resnets.1": f"{side}.mid.block_2",
        }
    for level in range(levels):
        for i in range(res_blocks):
            names[f"encoder.down_blocks.{level}.resnets.{i}"] = f"encoder.down.{level}.block.{i}"
        for i in range(res_blocks + 1):
            names[f"decoder.up_blocks.{level}.resnets.{i}"] = (
                f"decoder.up.{levels - 1 - level}.block.{i}"
            )
        if level < levels - 1:
            names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = (
                f"encoder.down.{level}.downsample.conv"
            )
            names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = (
                f"decoder.up.{levels - 1 - level}.upsample.conv"
            )
    return names | {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}


def _translate(
    name: str, blocks: dict[str, str], resnet: dict[str, str], attention: dict[str, str]
) -> str:
    block = max((b for b in blocks if name.startswith(b + ".")), key=len)
    inner = name[len(block) :]
    table = resnet if ".resnets." in block else attention if ".attentions." in block else {}
    for part, other in table.items():
        if inner.startswith(f".{part}."):
            inner = f".{other}.{inner[len(part) + 2 :]}"
            break
    return blocks[block] + inner


def checkpoint_names(
    unet: list[str], autoencoder: list[str], text: list[str]
) -> dict[str, dict[str, str]]:
    """Map weight names of diffusers/transformers to an SD1.x checkpoint's, for all networks.

    Raises `ValueError` for a name that no block of `CONFIG` accounts for.
    """
    unet_blocks = _unet_blocks(len(CONFIG["unet"]["channels"]), CONFIG["unet"]["res_blocks"])
    vae_blocks = _autoencoder_blocks(
        len(CONFIG["autoencoder"]["channels"]), CONFIG["autoencoder"]["res_blocks"]
    )
    return {
        "unet": {n: UNET_PREFIX + _translate(n, unet_blocks, _UNET_RESNET, {}) for n in unet},
        "autoencoder": {
            n: AUTOENCODER_PREFIX + _translate(n, vae_blocks, _VAE_RESNET, _VAE_ATTENTION)
            for n in autoencoder
        },
        "text": {
            n: TEXT_PREFIX + ("" if n.startswith("text_model.") else "text_model.") + n
            for n in text
        },
    }
