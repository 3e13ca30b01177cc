"""The demo model's networks as training builds them, and the checkpoint that they become.

Built with diffusers and transformers, named as in an SD1.x checkpoint on disk.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from einops import rearrange, repeat
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from .architecture import CONFIG, WEIGHTS, checkpoint_names
from .scenes import SIZE, caption, sample_scene

log = logging.getLogger("p2p.train")

LATENT_STD = 0.5
"""Standard deviation of each latent channel as the UNet sees it.

Below 1, so that SD1's terminal noise, which is not quite all noise, drowns the mean of a flat
background too.
"""
TOKENS = CONFIG["text"]["tokens"]
START, END = CONFIG["text"]["vocabulary"] - 2, CONFIG["text"]["vocabulary"] - 1


def build_autoencoder() -> AutoencoderKL:
    """Build SD1.x's AutoencoderKL at the demo's width."""
    config = CONFIG["autoencoder"]
    levels = len(config["channels"])
    return AutoencoderKL(
        block_out_channels=tuple(config["channels"]),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config["res_blocks"],
        latent_channels=config["latent_channels"],
        norm_num_groups=config["norm_groups"],
        scaling_factor=CONFIG["latent_scale"],
    )


def build_unet() -> UNet2DConditionModel:
    """Build SD1.x's UNet at the demo's width, cross-attention at every level."""
    config = CONFIG["unet"]
    levels = len(config["channels"])
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=CONFIG["autoencoder"]["latent_channels"],
        out_channels=CONFIG["autoencoder"]["latent_channels"],
        block_out_channels=tuple(config["channels"]),
        layers_per_block=config["res_blocks"],
        attention_head_dim=config["heads"],  # diffusers' historic name for the number of heads
        norm_num_groups=config["norm_groups"],
        cross_attention_dim=CONFIG["text"]["width"],
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
    )


def build_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Build a small CLIP text transformer over the `vocabulary` tokens that captions use."""
    config = CONFIG["text"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=config["width"],
            intermediate_size=4 * config["width"],
            num_hidden_layers=config["layers"],
            num_attention_heads=config["heads"],
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=0,
            eos_token_id=vocabulary - 1,
            attn_implementation="eager",
        )
    )


class Captions:
    """A tokenizer of captions: text to token ids.

    Training uses only the rows of CLIP's vocabulary that captions can ever contain.
    """

    def __init__(self) -> None:
        self._bpe = SimpleTokenizer()
        rng = random.Random(0)
        words = {w for _ in range(20_000) for w in caption(sample_scene(rng), rng).split()}
        self._word_ids = {w: self._bpe.encode(w) for w in sorted(words)}
        self.used = sorted({i for ids in self._word_ids.values() for i in ids} | {START, END})
        self._compact = {token: row for row, token in enumerate(self.used)}

    def __call__(self, texts: list[str]) -> Tensor:
        """Tokenise to ids of the compact vocabulary, padded as SD1.x pads: int64[texts tokens]."""
        rows: list[list[int]] = []
        for text in texts:
            ids = [i for w in text.split() for i in (self._word_ids.get(w) or self._bpe.encode(w))]
            ids = [START, *ids[: TOKENS - 2], END]
            rows.append([self._compact[i] for i in ids + [END] * (TOKENS - len(ids))])
        return torch.tensor(rows)

    def places(self, words: Sequence[str], marks: Sequence[int]) -> Tensor:
        """Mark each token as its word is marked: int64[tokens], −1 for the others."""
        found = torch.full((TOKENS,), -1)
        at = 1
        for word, mark in zip(words, marks, strict=True):
            count = len(self._word_ids.get(word) or self._bpe.encode(word))
            found[at : at + count] = mark
            at += count
        return found


class Float32Attention:
    """Attention in float32 whatever the rest is in: in bfloat16 a CPU is far slower at it.

    Cross-attention keeps its maps, averaged over heads, float[batch queries tokens], in `maps`.
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
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            rearrange(project(x), "b n (h d) -> b h n d", h=attn.heads).float()
            for project, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        with torch.autocast(q.device.type, enabled=False):
            if self.keep:
                probabilities = (q @ k.mT * attn.scale).softmax(-1)
                self.maps = probabilities.mean(1)
                out = probabilities @ v
            else:
                out = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](rearrange(out, "b h n d -> b n (h d)"))


def encode_words(text: CLIPTextModel, ids: Tensor, which: Tensor | None = None) -> Tensor:
    """Encode captions, ids int64[batch tokens], as float[batch tokens width].

    Or captions of which every token is encoded in one of several: ids int64[several batch tokens],
    and `which`, int64[batch tokens], says in which one.
    """
    if which is None:
        return text(ids).last_hidden_state
    encoded = text(rearrange(ids, "s b t -> (s b) t")).last_hidden_state
    encoded = rearrange(encoded, "(s b) t c -> s b t c", s=len(ids))
    index = repeat(which, "b t -> 1 b t c", c=encoded.shape[-1])
    return encoded.gather(0, index)[0]


class Generator(nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text = build_text_encoder(vocabulary)
        self.unet.set_attn_processor(
            {name: Float32Attention(keep="attn2" in name) for name in self.unet.attn_processors}
        )

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """Predict for captions as `encode_words` takes them."""
        context = encode_words(self.text, ids, which)
        return self.unet(x, t, context).sample

    def word_maps(self) -> list[Tensor]:
        """Return the last call's cross-attention maps at the latent's resolution, one per layer.

        Each float[batch pixels tokens].
        """
        maps = [processor.maps for processor in self.unet.attn_processors.values()]
        return [m for m in maps if m is not None and m.shape[1] == (SIZE // 8) ** 2]


def export(
    out: Path, autoencoder: AutoencoderKL, model: Generator, captions: Captions, statistics: Tensor
) -> None:
    """Write the checkpoint.

    SD1.x names, fp16, latent normalisation folded into the autoencoder's 1×1 convolutions.
    """
    unet, text = model.unet.state_dict(), model.text.state_dict()
    vae = {k: v.float() for k, v in autoencoder.state_dict().items()}
    _fold_normalisation(vae, statistics)
    embedding = next(k for k in text if k.endswith("token_embedding.weight"))
    full = torch.zeros(CONFIG["text"]["vocabulary"], CONFIG["text"]["width"])
    full[captions.used] = (
        text[embedding].float().cpu()
    )  # a word no caption has is a zero, not a random vector
    text = {k: v for k, v in text.items() if not k.endswith("position_ids")} | {embedding: full}
    names = checkpoint_names(list(unet), list(vae), list(text))
    weights: dict[str, Tensor] = {}
    for part, state in (("unet", unet), ("autoencoder", vae), ("text", text)):
        for name, value in state.items():
            weights[names[part][name]] = value.half().cpu().contiguous()
            if ".attentions." in name and part == "autoencoder" and value.ndim == 2:
                weights[names[part][name]] = weights[names[part][name]][
                    :, :, None, None
                ].contiguous()
    path = out / WEIGHTS.name
    save_file(weights, path, metadata={"p2p_demo": json.dumps(CONFIG)})
    log.info("wrote %s, %.1f MB", path, path.stat().st_size / 1e6)


def _fold_normalisation(vae: dict[str, Tensor], statistics: Tensor) -> None:
    """Scale and shift the latents that the autoencoder makes and reads.

    Afterwards `latent_scale` × latent has mean 0 and standard deviation `LATENT_STD`.
    """
    mean, std = statistics.double().to(vae["quant_conv.weight"].device)
    scale = LATENT_STD / CONFIG["latent_scale"] / std
    channels = len(mean)
    weight, bias = vae["quant_conv.weight"].double(), vae["quant_conv.bias"].double()
    weight[:channels] *= scale[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) * scale
    bias[channels:] += 2 * scale.log()  # the log variance follows
    vae["quant_conv.weight"], vae["quant_conv.bias"] = weight.float(), bias.float()
    weight, bias = vae["post_quant_conv.weight"].double(), vae["post_quant_conv.bias"].double()
    vae["post_quant_conv.bias"] = (bias + (weight[:, :, 0, 0] * mean).sum(1)).float()
    vae["post_quant_conv.weight"] = (weight / scale[None, :, None, None]).float()


def load_checkpoint(path: Path, captions: Captions) -> tuple[AutoencoderKL, Generator]:
    """Load a checkpoint that `export` wrote, as networks to train on.

    Its latents are normalised already; training finds the identity when it measures them again.
    """
    autoencoder, generator = build_autoencoder(), Generator(len(captions.used))
    fill(path, generator.unet, autoencoder, generator.text, captions.used)
    return autoencoder, generator


def fill(
    path: Path,
    unet: nn.Module,
    autoencoder: nn.Module,
    text: nn.Module,
    tokens: Sequence[int] | None = None,
) -> None:
    """Give networks the weights of a checkpoint; the text encoder only those of some `tokens`."""
    weights = load_file(path)
    states = {
        "unet": unet.state_dict(),
        "autoencoder": autoencoder.state_dict(),
        "text": text.state_dict(),
    }
    names = checkpoint_names(*(list(states[part]) for part in ("unet", "autoencoder", "text")))
    for part, state in states.items():
        for name, target in state.items():
            if name.endswith("position_ids"):
                continue
            value = weights[names[part][name]]
            if tokens is not None and name.endswith("token_embedding.weight"):
                value = value[tokens]
            target.copy_(value.reshape(target.shape))
