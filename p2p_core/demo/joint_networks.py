"""The joint-attention demo model as training builds it, and the checkpoint that it becomes.

Built with diffusers, named as a Flux checkpoint on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from .joint_architecture import JOINT_CONFIG, JOINT_WEIGHTS, from_flux, to_flux
from .networks import encode_words, log

TOKENS = JOINT_CONFIG["text"]["tokens"]
_POOLED = JOINT_CONFIG["transformer"]["pooled"]


def build_transformer() -> FluxTransformer2DModel:
    """Build Flux at the demo's width, deaf to the pooled vector."""
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


def velocity(
    model: FluxTransformer2DModel, x: Tensor, level: Tensor, context: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return what `model` predicts, and where its double blocks' pixels look at words.

    The same function as the model's own `forward`, at half the time on a CPU: layers that read the
    same are one product, and in bfloat16 the attention, the sums from block to block and the
    timestep stay in float32.

    Args:
        model: As `build_transformer` makes it.
        x: float[batch channels h w].
        level: float[batch], how much of `x` is noise, 0 to 1.
        context: float[batch tokens width].

    Returns:
        (velocity[batch channels h w], for each double block float[batch pixels tokens]: the
        attention of pixels to tokens, averaged over heads).
    """
    height, width = x.shape[-2:]
    tokens, maps = context.shape[1], []
    rope = _rope(model, tokens, height, width)
    mood = model.time_text_embed(1000 * level, x.new_zeros(len(x), _POOLED))
    mood = F.silu(mood)
    image = model.x_embedder(rearrange(x, "b c h w -> b (h w) c")).float()
    text = model.context_embedder(context).float()
    for block in model.transformer_blocks:
        image, text, seen = _double_block(block, image, text, mood, rope)
        maps.append(seen)
    both = torch.cat([text, image], 1)
    for block in model.single_transformer_blocks:
        both = _single_block(block, both, mood, rope)
    scale, shift = _modulation(model.norm_out.linear, mood, 2)
    out = model.proj_out(_modulated(both[:, tokens:], shift, scale))
    return rearrange(out, "b (h w) c -> b c h w", h=height), maps


def _rope(model: FluxTransformer2DModel, tokens: int, height: int, width: int) -> Tensor:
    """Of words, all at 0, and of pixels: complex[words+pixels 1 head_width/2]."""
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    places = torch.cartesian_prod(torch.zeros(1), rows, columns)
    places = torch.cat([torch.zeros(tokens, 3), places]).to(model.device)
    cos, sin = model.pos_embed(places)
    return torch.complex(cos[:, None, ::2], sin[:, None, ::2])


def _double_block(
    block: FluxTransformerBlock, image: Tensor, text: Tensor, mood: Tensor, rope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    attn, tokens = block.attn, text.shape[1]
    streams = (
        (text, block.norm1_context, (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)),
        (image, block.norm1, (attn.to_q, attn.to_k, attn.to_v)),
    )
    ends = (
        ((attn.norm_added_q, attn.norm_added_k), attn.to_add_out, block.ff_context),
        ((attn.norm_q, attn.norm_k), attn.to_out[0], block.ff),
    )
    moods = [_modulation(norm.linear, mood, 6) for _, norm, _ in streams]
    parts = [
        _heads(_linear(layers, _modulated(x, shift, scale)), attn.heads, norms)
        for (x, _, layers), (norms, _, _), (shift, scale, *_) in zip(
            streams, ends, moods, strict=True
        )
    ]
    q, k, v = (torch.cat(some, 1) for some in zip(*parts, strict=True))
    out, seen = _attend_and_look(q, k, v, rope, tokens)
    after: list[Tensor] = []
    for (x, _, _), (_, project, feed), (_, _, gate, *mlp), change in zip(
        streams, ends, moods, (out[:, :tokens], out[:, tokens:]), strict=True
    ):
        x = torch.addcmul(x, gate, project(change).float())
        shift, scale, gate = mlp
        after.append(torch.addcmul(x, gate, feed(_modulated(x, shift, scale)).float()))
    return after[1], after[0], seen


def _single_block(
    block: FluxSingleTransformerBlock, both: Tensor, mood: Tensor, rope: Tensor
) -> Tensor:
    attn = block.attn
    shift, scale, gate = _modulation(block.norm.linear, mood, 3)
    layers = (attn.to_q, attn.to_k, attn.to_v, block.proj_mlp)
    stacked = _linear(layers, _modulated(both, shift, scale))
    qkv, mlp = stacked.split([3 * both.shape[-1], block.mlp_hidden_dim], -1)
    q, k, v = _heads(qkv, attn.heads, (attn.norm_q, attn.norm_k))
    out = _attend(q, k, v, rope)
    change = block.proj_out(torch.cat([out.to(mlp.dtype), block.act_mlp(mlp)], -1))
    return torch.addcmul(both, gate, change.float())


def _modulation(layer: nn.Linear, mood: Tensor, count: int) -> tuple[Tensor, ...]:
    return layer(mood).float()[:, None].chunk(count, -1)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def _linear(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """What several layers make of `x`, side by side."""
    weight = torch.cat([layer.weight for layer in layers])
    return F.linear(x, weight, torch.cat([layer.bias for layer in layers]))


def _heads(
    qkv: Tensor, heads: int, norms: tuple[nn.Module, nn.Module]
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v: float32[batch tokens heads width]."""
    q, k, v = qkv.float().unflatten(-1, (3, heads, -1)).unbind(2)
    return norms[0](q), norms[1](k), v


def _rotated(x: Tensor, rope: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rope
    return torch.view_as_real(turned).flatten(-2).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = _rotated(q, rope), _rotated(k, rope), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)")


def _attend_and_look(
    q: Tensor, k: Tensor, v: Tensor, rope: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = _rotated(q, rope), _rotated(k, rope), v.transpose(1, 2)
        probabilities = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        seen = probabilities[:, :, tokens:, :tokens].mean(1)
        return rearrange(probabilities @ v, "b h n d -> b n (h d)"), seen


class JointGenerator(nn.Module):
    """The transformer, and the first demo model's text encoder, which does not learn."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text = text.eval().requires_grad_(False)
        self._maps: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """Predict the velocity for captions (see `encode_words`) at noise levels `t`."""
        with torch.no_grad():
            if which is not None:
                which = which[..., :TOKENS]
            context = encode_words(self.text, ids[..., :TOKENS], which)
        out, self._maps = velocity(self.transformer, x, t, context)
        return out

    def word_maps(self) -> list[Tensor]:
        """Return the last call's image-to-text attention in the double blocks.

        Each float[batch pixels tokens].
        """
        return self._maps


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
