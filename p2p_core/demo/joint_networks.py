"""The joint-attention demo model as training builds it, and the checkpoint that it becomes.

Built with diffusers, named as a Flux checkpoint on disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from .joint_architecture import JOINT_CONFIG, JOINT_WEIGHTS, from_flux, to_flux
from .networks import encode_words, log

TOKENS = JOINT_CONFIG["text"]["tokens"]


def build_transformer() -> FluxTransformer2DModel:
    """Flux at the demo's width, deaf to the pooled vector."""
    config = JOINT_CONFIG["transformer"]
    model = FluxTransformer2DModel(
        patch_size=config["patch"],
        in_channels=config["channels"],
        num_layers=config["double_blocks"],
        num_single_layers=config["single_blocks"],
        attention_head_dim=config["head_width"],
        num_attention_heads=config["heads"],
        joint_attention_dim=config["context"],
        pooled_projection_dim=config["pooled"],
        axes_dims_rope=tuple(config["rope"]),
    )
    nn.init.zeros_(model.time_text_embed.text_embedder.linear_1.weight)
    return model


def call_transformer(
    model: FluxTransformer2DModel, x: Tensor, level: Tensor, context: Tensor
) -> Tensor:
    """The velocity: float[batch channels h w] for latents of that shape.

    `level`, float[batch], is how much of `x` is noise, 0 to 1; `context` float[batch tokens width].
    """
    height, width = x.shape[-2:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    places = torch.cartesian_prod(torch.zeros(1), rows, columns).to(x.device)
    out = model(
        hidden_states=rearrange(x, "b c h w -> b (h w) c"),
        encoder_hidden_states=context,
        pooled_projections=x.new_zeros(len(x), JOINT_CONFIG["transformer"]["pooled"]),
        timestep=level,
        img_ids=places,
        txt_ids=places.new_zeros(context.shape[1], 3),
    ).sample
    return rearrange(out, "b (h w) c -> b c h w", h=height)


class Float32JointAttention:
    """Flux's attention in float32 whatever the rest is in, as `networks.Float32Attention`.

    With `keep`, how much pixels look at words, averaged over heads, float[batch pixels tokens],
    stays in `maps`.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.maps: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = (layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).float() for x in (q, k, v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        tokens = 0
        if encoder_hidden_states is not None:
            tokens = encoder_hidden_states.shape[1]
            words = (
                layer(encoder_hidden_states).unflatten(-1, (attn.heads, -1)).float()
                for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            word_q, word_k, word_v = words
            q = torch.cat([attn.norm_added_q(word_q), q], 1)
            k = torch.cat([attn.norm_added_k(word_k), k], 1)
            v = torch.cat([word_v, v], 1)
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):
            if self.keep:
                probabilities = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
                self.maps = probabilities[:, :, tokens:, :tokens].mean(1)
                out = probabilities @ v
            else:
                out = F.scaled_dot_product_attention(q, k, v)
        out = rearrange(out, "b h n d -> b n (h d)")
        if encoder_hidden_states is None:
            return out
        return attn.to_out[0](out[:, tokens:]), attn.to_add_out(out[:, :tokens])


class JointGenerator(nn.Module):
    """The transformer, and the first demo model's text encoder, which does not learn."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text = text.eval().requires_grad_(False)
        # Under autocast diffusers would round the timestep to the precision of these features.
        self.transformer.x_embedder.register_forward_hook(_in_float32)
        for block in self.transformer.transformer_blocks:
            block.attn.set_processor(Float32JointAttention(keep=True))
        for block in self.transformer.single_transformer_blocks:
            block.attn.set_processor(Float32JointAttention(keep=False))

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """The velocity for captions, as `networks.Generator` takes them, at noise levels `t`."""
        with torch.no_grad():
            if which is not None:
                which = which[..., :TOKENS]
            context = encode_words(self.text, ids[..., :TOKENS], which)
        return call_transformer(self.transformer, x, t, context)

    def word_maps(self) -> list[Tensor]:
        """The last call's image-to-text attention in the double blocks.

        Each float[batch pixels tokens].
        """
        maps = [block.attn.processor.maps for block in self.transformer.transformer_blocks]
        return [m for m in maps if m is not None]


def _in_float32(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()


def export_transformer(out: Path, model: FluxTransformer2DModel) -> Path:
    """Write the checkpoint into the folder `out`: Flux names, fp16."""
    weights = {
        name: value.half().cpu().contiguous() for name, value in to_flux(model.state_dict()).items()
    }
    path = out / JOINT_WEIGHTS.name
    partial = path.with_suffix(".partial")
    save_file(weights, partial, metadata={"p2p_demo": json.dumps(JOINT_CONFIG)})
    partial.replace(path)
    log.info("wrote %s, %.1f MB", path, path.stat().st_size / 1e6)
    return path


def fill_transformer(path: Path, model: FluxTransformer2DModel) -> None:
    """Give the transformer the weights of a checkpoint that `export_transformer` wrote."""
    model.load_state_dict(from_flux(load_file(path), model.state_dict()))
