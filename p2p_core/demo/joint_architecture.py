"""The joint-attention demo model's architecture, and its weights' names.

A small Flux. Training builds it with diffusers; the shipped file carries the names of a Flux
checkpoint, which is what hosts read. `FLUX_NAMES` is the one table between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .architecture import CONFIG, UNET_PREFIX, WEIGHTS

JOINT_WEIGHTS = Path(__file__).with_name("joint_model.safetensors")
"""The checkpoint of the transformer alone.

Flux names, fp16, its configuration as JSON under the metadata key "p2p_demo". Autoencoder and text
encoder are the first demo model's.
"""

MODELS = {"UNet": WEIGHTS, "MMDiT": JOINT_WEIGHTS}
"""The demo models by what their networks are called."""

JOINT_CONFIG: dict[str, Any] = {
    "transformer": {
        "double_blocks": 3,
        "single_blocks": 5,
        "heads": 4,
        "head_width": 64,
        "rope": [16, 24, 24],
        "theta": 10000,
        "mlp_ratio": 4,
        "patch": 1,
        "channels": CONFIG["autoencoder"]["latent_channels"],
        "context": CONFIG["text"]["width"],
        "pooled": CONFIG["text"]["width"],
    },
    "text": {"tokens": 28},
    "prediction": "flow",
    "shift": 1.0,
    "latent_scale": CONFIG["latent_scale"],
    "image_size": CONFIG["image_size"],
}
"""`text.tokens`: to how many a caption is padded, the start and the end among them; the longest has
22. The text encoder is causal, so these are the first of its 77. `pooled`: the width of a vector
that Flux takes beside the tokens; the weights that read it are zero, so it changes nothing.
"""

PREFIX = UNET_PREFIX

_TOP = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_HALVES_SWAPPED = "final_layer.adaLN_modulation.1"
"""Flux has (shift, scale) here, diffusers (scale, shift)."""


def _names(double: int, single: int) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = dict(_TOP)
    for table, count, flux, diffusers in (
        (_DOUBLE, double, "double_blocks", "transformer_blocks"),
        (_SINGLE, single, "single_blocks", "single_transformer_blocks"),
    ):
        for i in range(count):
            for layer, parts in table.items():
                names[f"{flux}.{i}.{layer}"] = tuple(f"{diffusers}.{i}.{part}" for part in parts)
    return names


FLUX_NAMES = _names(
    JOINT_CONFIG["transformer"]["double_blocks"], JOINT_CONFIG["transformer"]["single_blocks"]
)
"""A layer of Flux → the layers of diffusers that are stacked in it, one below the other."""


def to_flux(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name and stack the weights of diffusers' transformer as a Flux checkpoint does.

    Raises `ValueError` if weights are missing or left over.
    """
    left, weights = dict(state), dict[str, Tensor]()
    for layer, parts in FLUX_NAMES.items():
        for kind in ("weight", "bias"):
            found = [left.pop(f"{part}.{kind}", None) for part in parts]
            stacked = [value for value in found if value is not None]
            if not stacked and kind == "bias" and layer.endswith("_norm"):
                continue
            if len(stacked) != len(parts):
                raise ValueError(
                    f"Expected the {kind} of {', '.join(parts)} among the weights, got "
                    f"{len(stacked)} of {len(parts)}. Build the transformer from JOINT_CONFIG."
                )
            name = f"{layer}.{'scale' if layer.endswith('_norm') else kind}"
            weights[PREFIX + name] = _swap(layer, torch.cat(stacked))
    if left:
        raise ValueError(
            f"Expected the weights of JOINT_CONFIG's transformer, got {', '.join(left)} besides. "
            "Build the transformer from JOINT_CONFIG."
        )
    return weights


def from_flux(weights: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a checkpoint's weights as diffusers does, split into the shapes of `state`."""
    found: dict[str, Tensor] = {}
    for layer, parts in FLUX_NAMES.items():
        for kind in ("weight", "bias"):
            names = [f"{part}.{kind}" for part in parts]
            if names[0] not in state:
                continue
            name = f"{layer}.{'scale' if layer.endswith('_norm') else kind}"
            stacked = _swap(layer, weights[PREFIX + name])
            pieces = torch.split(stacked, [len(state[n]) for n in names])
            found |= dict(zip(names, pieces, strict=True))
    return found


def _swap(layer: str, value: Tensor) -> Tensor:
    return torch.cat(value.chunk(2)[::-1]) if layer == _HALVES_SWAPPED else value
