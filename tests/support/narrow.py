"""A host whose loaders also build narrow networks, for tests that load small files.

The host's loaders find a model's class, and most of its sizes, in the names and shapes of its
weights. Some widths they take for granted, such as those of every text encoder. `install` makes
them those of this module, within a server that a test starts for itself; detection, classes,
tokenizers and nodes stay the host's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

NOTE = "narrow"
"""The tensor of a file that says what the host cannot see in it: JSON as bytes."""

PIECES = 400
"""Words and pieces of words that Wan's tokenizer has here."""

CLIP = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 64}
CLIP |= {"num_attention_heads": 2}
T5 = {"d_ff": 64, "d_kv": 32, "num_heads": 2, "num_layers": 2}
LLM = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
LLM |= {"num_key_value_heads": 1}
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "clip_l_model_config": CLIP,
    "clip_g_model_config": CLIP,
    "t5xxl_model_config": {**T5, "d_model": 4096},  # SD3 lays CLIP's and T5's tokens side by side
    "umt5xxl_model_config": {**T5, "d_model": 64, "vocab_size": PIECES},
    "qwen25_7b_model_config": {**LLM, "num_hidden_layers": 2},
    "qwen3_4b_model_config": {**LLM, "num_hidden_layers": 28},  # Klein reads layers 9, 18 and 27
    "qwen3_06b_model_config": {**LLM, "num_hidden_layers": 2},
}
"""Sizes of text encoders, as the host's own model options."""

ADAPTER = {"source_dim": 64, "target_dim": 64, "model_dim": 64, "num_layers": 1, "num_heads": 2}
"""Sizes of Anima's adapter."""

VAE, VAE22 = {"dim": 8}, {"dim": 8, "dec_dim": 8}
"""Channels of Wan's autoencoders."""


def note(**said: Any) -> torch.Tensor:
    """Make the tensor that `install` reads: `encoder`, or `widths` and perhaps `config`."""
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def read(weights: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, Any]:
    """Read what a file says; nothing where it has no note."""
    found = weights.get(prefix + NOTE)
    return {} if found is None else json.loads(bytes(found.tolist()))


def install() -> None:
    """Let this process's ComfyUI load narrow files; for a server of a test's own."""
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2
    import comfy.model_detection
    import comfy.sd
    import comfy.supported_models

    encoder_of, config_of = comfy.sd.detect_te_model, comfy.model_detection.model_config_from_unet
    make_clip = comfy.sd.CLIP.__init__

    def encoder(weights: Any) -> Any:
        said = read(weights)
        return comfy.sd.TEModel[said["encoder"]] if said else encoder_of(weights)

    def config(weights: Any, prefix: str, *rest: Any, **named: Any) -> Any:
        found, said = config_of(weights, prefix, *rest, **named), read(weights, prefix)
        if not said:
            return found
        told = said.get("config")
        kind = getattr(comfy.supported_models, told) if told else type(found)
        return kind({**found.unet_config, **said["widths"]})

    def clip(self: Any, *rest: Any, **named: Any) -> None:
        options = {**named.pop("model_options", {}), **TEXT_ENCODERS}
        make_clip(self, *rest, **named, model_options=options)

    comfy.sd.detect_te_model = encoder
    comfy.model_detection.model_config_from_unet = config
    comfy.sd.CLIP.__init__ = clip
    comfy.ldm.wan.vae.WanVAE = _with(comfy.ldm.wan.vae.WanVAE, **VAE)
    comfy.ldm.wan.vae2_2.WanVAE = _with(comfy.ldm.wan.vae2_2.WanVAE, **VAE22)
    try:
        import comfy.ldm.anima.model as anima
    except ImportError:  # an older host
        return
    anima.LLMAdapter = _with(anima.LLMAdapter, **ADAPTER)


def _with(make: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    return lambda *rest, **named: make(*rest, **{**named, **fixed})
