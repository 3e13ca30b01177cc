"""Transformers of diffusers that are edited: one table, a row a class.

Latents are the autoencoder's here, [rows channels height width], of Wan [rows channels frames
height width]; each row packs them as its network wants them. A text that others outlast is filled
up, and `Embedding.rest` says with which of its tokens: bool[rows tokens]. Where a network also gets
a vector of the whole prompt, that is `rest`.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, prod
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from einops import rearrange
from torch import Tensor

from ...inversion.task import Embedding
from .texts import Encoder

Predict = Callable[[Any, Any, Tensor, float, Embedding, float], Tensor]
"""(pipeline, network, latents, σ, text, guidance that it is told) → velocity, shaped as latents."""


@dataclass(frozen=True)
class Kind:
    """A class of transformers, and the pipeline around it."""

    name: str
    blocks: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(list of blocks, what windows over blocks call them, their modules of attention), in order.

    Of one module, text and image share its attention; of two, the image looks at itself in the
    first and at its text in the second.
    """
    encoders: Callable[[Any], list[Encoder]]
    encode: Callable[[Any, list[str]], Embedding]
    predict: Predict
    patch: Callable[[Any], int]
    """Of a pipeline: rows and columns of the latent that are one token."""
    cfg: float
    """Guidance where none is asked for."""
    text_first: bool = True
    """Whether the text stands before the image."""
    multiple: int = 1
    """To how many tokens the image is filled up."""
    pooled: bool = False
    """Whether the network gets a vector of the whole prompt."""
    even: bool = True
    """Whether its pipeline asks for steps of one size, from 1 on."""
    video: bool = False
    guided: Callable[[Any, Tensor, Tensor, float], Tensor] = lambda pipeline, uncond, cond, cfg: (
        uncond + cfg * (cond - uncond)
    )


def _most(pipeline: Any, tokenizer: Any) -> int:
    """How many tokens a pipeline's long text has: as many as it asks for by itself."""
    return min(_asked(pipeline), tokenizer.model_max_length)


def _asked(pipeline: Any) -> int:
    return inspect.signature(type(pipeline).__call__).parameters["max_sequence_length"].default


def _filled(tokenizer: Any, length: int) -> Encoder:
    """An encoder whose texts are all filled up to one length."""

    def ids(text: str) -> Sequence[int]:
        return tokenizer(text, verbose=False)["input_ids"]

    return Encoder(ids, length, lambda count: length)


def _padded(texts: Sequence[Tensor]) -> Embedding:
    """Join texts, each float[tokens channels], to rows of one length."""
    length = max(len(text) for text in texts)
    tokens = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    kept = [len(text) for text in texts]
    ends = torch.tensor(kept, device=tokens.device)
    return Embedding(tokens, torch.arange(length, device=tokens.device) < ends[:, None])


def _levels(x: Tensor, sigma: float) -> Tensor:
    return torch.full((len(x),), sigma, device=x.device)


def _packed(x: Tensor, patch: int) -> Tensor:
    return rearrange(x, "r c (h p) (w q) -> r (h w) (c p q)", p=patch, q=patch)


def _unpacked(x: Tensor, patch: int, height: int) -> Tensor:
    h = height // patch
    return rearrange(x, "r (h w) (c p q) -> r c (h p) (w q)", h=h, p=patch, q=patch)


def channels_of(pipeline: Any) -> int:
    """Count the channels of the autoencoder's latents."""
    config = pipeline.vae.config
    return getattr(config, "latent_channels", None) or config.z_dim


def _packing(pipeline: Any) -> int:
    """Rows and columns of a latent that are packed to one token."""
    return isqrt(pipeline.transformer.config.in_channels // channels_of(pipeline))


# Flux.1


def _flux_encode(pipeline: Any, texts: list[str]) -> Embedding:
    most = _most(pipeline, pipeline.tokenizer_2)
    tokens, pooled, _ = pipeline.encode_prompt(texts, None, max_sequence_length=most)
    return Embedding(tokens, pooled)


def _flux(
    pipeline: Any, network: Any, x: Tensor, sigma: float, text: Embedding, told: float
) -> Tensor:
    patch = _packing(pipeline)
    h, w = (side // patch for side in x.shape[-2:])
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(h).float(), torch.arange(w).float())
    found = network(
        hidden_states=_packed(x, patch),
        encoder_hidden_states=text.tokens,
        pooled_projections=text.rest,
        timestep=_levels(x, sigma),
        guidance=_levels(x, told) if network.config.guidance_embeds else None,
        txt_ids=x.new_zeros(text.tokens.shape[1], 3),
        img_ids=places.to(x),
    )
    return _unpacked(found.sample, patch, x.shape[-2])


# SD3


def _sd3_encoders(pipeline: Any) -> list[Encoder]:
    clip, long = pipeline.tokenizer_max_length, _sd3_long(pipeline)
    first = _filled(pipeline.tokenizer, clip)
    if pipeline.text_encoder_3 is None:  # zeros stand there
        return [replace(first, length=lambda count: clip + long)]
    return [first, _filled(pipeline.tokenizer_3, long)]


def _sd3_long(pipeline: Any) -> int:
    return _most(pipeline, pipeline.tokenizer_3 or pipeline.tokenizer)


def _sd3_encode(pipeline: Any, texts: list[str]) -> Embedding:
    tokens, _, pooled, _ = pipeline.encode_prompt(
        texts,
        None,
        None,
        do_classifier_free_guidance=False,
        max_sequence_length=_sd3_long(pipeline),
    )
    return Embedding(tokens, pooled)


def _sd3(
    pipeline: Any, network: Any, x: Tensor, sigma: float, text: Embedding, told: float
) -> Tensor:
    return network(
        hidden_states=x,
        encoder_hidden_states=text.tokens,
        pooled_projections=text.rest,
        timestep=_levels(x, sigma * pipeline.scheduler.config.num_train_timesteps),
    ).sample


# Qwen-Image


def _templated(tokenizer: Any, template: Callable[[str], str], dropped: int, most: int) -> Encoder:
    """An encoder that writes a chat around every text and fills nothing up."""

    def ids(text: str) -> Sequence[int]:
        return tokenizer(template(text), verbose=False)["input_ids"][dropped:]

    return Encoder(ids, most, lambda count: count, repeats=False)


def _qwen_encoders(pipeline: Any) -> list[Encoder]:
    dropped, most = pipeline.prompt_template_encode_start_idx, _asked(pipeline)
    return [_templated(pipeline.tokenizer, pipeline.prompt_template_encode.format, dropped, most)]


def _qwen_encode(pipeline: Any, texts: list[str]) -> Embedding:
    most = _asked(pipeline)
    found = (pipeline.encode_prompt([text], max_sequence_length=most)[0][0] for text in texts)
    return _padded(list(found))


def _qwen(
    pipeline: Any, network: Any, x: Tensor, sigma: float, text: Embedding, told: float
) -> Tensor:
    patch = _packing(pipeline)
    h, w = (side // patch for side in x.shape[-2:])
    found = network(
        hidden_states=_packed(x, patch),
        encoder_hidden_states=text.tokens,
        encoder_hidden_states_mask=text.rest,
        timestep=_levels(x, sigma),
        guidance=_levels(x, told) if network.config.guidance_embeds else None,
        img_shapes=[[(1, h, w)]] * len(x),
    )
    return _unpacked(found.sample, patch, x.shape[-2])


def _as_strong(pipeline: Any, uncond: Tensor, cond: Tensor, cfg: float) -> Tensor:
    """Guide, every token of the image staying as strong as without."""
    patch, height = _packing(pipeline), cond.shape[-2]
    cond = _packed(cond, patch)
    guided = torch.lerp(_packed(uncond, patch), cond, cfg)
    return _unpacked(
        guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)),
        patch,
        height,
    )


# Z-Image


def _z_encoders(pipeline: Any) -> list[Encoder]:
    def chat(text: str) -> str:
        return pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )

    encoder = _templated(pipeline.tokenizer, chat, 0, _asked(pipeline))
    return [replace(encoder, length=lambda count: ceil(count / SEQ_MULTI_OF) * SEQ_MULTI_OF)]


def _z_encode(pipeline: Any, texts: list[str]) -> Embedding:
    found, _ = pipeline.encode_prompt([*texts], do_classifier_free_guidance=False)
    return _padded(found)


def _z_image(
    pipeline: Any, network: Any, x: Tensor, sigma: float, text: Embedding, told: float
) -> Tensor:
    captions = [one[kept] for one, kept in zip(text.tokens, text.rest, strict=True)]
    found = network(list(x[:, :, None]), 1 - _levels(x, sigma), captions).sample
    return -torch.stack(list(found))[:, :, 0]


# Wan


def _wan_encode(pipeline: Any, texts: list[str]) -> Embedding:
    most = _most(pipeline, pipeline.tokenizer)
    tokens, _ = pipeline.encode_prompt(
        texts, do_classifier_free_guidance=False, max_sequence_length=most
    )
    return Embedding(tokens)


def _wan(
    pipeline: Any, network: Any, x: Tensor, sigma: float, text: Embedding, told: float
) -> Tensor:
    level = _levels(x, sigma * pipeline.scheduler.config.num_train_timesteps)
    if pipeline.config.expand_timesteps:  # one for each token
        patch = network.config.patch_size
        tokens = prod(side // own for side, own in zip(x.shape[2:], patch, strict=True))
        level = level[:, None].expand(-1, tokens)
    return network(hidden_states=x, timestep=level, encoder_hidden_states=text.tokens).sample


_DOUBLE = ("transformer_blocks", "double", ("attn",))
KINDS: dict[str, Kind] = {
    "FluxTransformer2DModel": Kind(
        name="Flux",
        blocks=(_DOUBLE, ("single_transformer_blocks", "single", ("attn",))),
        encoders=lambda p: [_filled(p.tokenizer_2, _most(p, p.tokenizer_2))],
        encode=_flux_encode,
        predict=_flux,
        patch=_packing,
        cfg=1.0,
        pooled=True,
    ),
    "SD3Transformer2DModel": Kind(
        name="SD3",
        blocks=(_DOUBLE,),
        encoders=_sd3_encoders,
        encode=_sd3_encode,
        predict=_sd3,
        patch=lambda pipeline: pipeline.transformer.config.patch_size,
        cfg=7.0,
        text_first=False,
        pooled=True,
        even=False,
    ),
    "QwenImageTransformer2DModel": Kind(
        name="Qwen-Image",
        blocks=(_DOUBLE,),
        encoders=_qwen_encoders,
        encode=_qwen_encode,
        predict=_qwen,
        patch=_packing,
        cfg=4.0,
        guided=_as_strong,
    ),
    "ZImageTransformer2DModel": Kind(
        name="Z-Image",
        blocks=(("layers", "single", ("attention",)),),
        encoders=_z_encoders,
        encode=_z_encode,
        predict=_z_image,
        patch=lambda pipeline: pipeline.transformer.config.all_patch_size[0],
        cfg=1.0,
        text_first=False,
        multiple=SEQ_MULTI_OF,
    ),
    "WanTransformer3DModel": Kind(
        name="Wan",
        blocks=(("blocks", "block", ("attn1", "attn2")),),
        encoders=lambda p: [_filled(p.tokenizer, _most(p, p.tokenizer))],
        encode=_wan_encode,
        predict=_wan,
        patch=lambda pipeline: pipeline.transformer.config.patch_size[-1],
        cfg=5.0,
        even=False,
        video=True,
    ),
}
"""By the name of the transformer's class."""

UNETS = ("SD1.x", "SD2.x", "SDXL", "latent diffusion")


def known() -> str:
    """List the families that are edited in diffusers, for messages."""
    return ", ".join([*UNETS, *(kind.name for kind in KINDS.values())])
