"""The demo models as ComfyUI's own MODEL, CLIP and VAE, so that every stock node works on them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import safetensors
import torch
from comfy.ldm.flux.model import FluxParams

from ...demo.architecture import AUTOENCODER_PREFIX, TEXT_PREFIX, UNET_PREFIX, WEIGHTS


def load_demo(path: Path = WEIGHTS) -> tuple[Any, Any, Any]:
    """Read a demo checkpoint: (MODEL, CLIP, VAE).

    One of the transformer alone takes the first model's text encoder and autoencoder. Raises
    `ValueError` if the file is missing or is no demo checkpoint, or if the host's Flux is too old.
    """
    weights, config = _read(path)
    if "transformer" in config:
        rest, first = _read(WEIGHTS)
        model = _transformer(weights, config)
    else:
        rest, first = weights, config
        model = _unet(weights, config)
    return (
        model,
        _clip(rest, first["text"] | config["text"]),
        _vae(rest, first["autoencoder"]),
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A checkpoint's weights and configuration."""
    if not path.is_file():
        raise ValueError(
            f"Expected the demo model at {path}, which does not exist. "
            "Reinstall the pack: the file ships with it."
        )
    with safetensors.safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if "p2p_demo" not in metadata:
        raise ValueError(
            "Expected a demo checkpoint with its configuration in the metadata, "
            f"got {path.name} without it. "
            "Load other checkpoints with the stock checkpoint loader."
        )
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    return weights, json.loads(metadata["p2p_demo"])


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _use_groups(network: torch.nn.Module, groups: int) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups


class _DemoUNet(comfy.supported_models.SD15):
    """SD1.5's configuration with v-prediction, as SD2's."""

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


class _DemoFlux(comfy.supported_models.FluxSchnell):
    """Flux.1-schnell's configuration, on SD1.5's kind of latents."""

    latent_format = comfy.latent_formats.SD15


def _unet(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    unet = config["unet"]
    channels, levels = unet["channels"], len(unet["channels"])
    latent = config["autoencoder"]["latent_channels"]
    model_config = _DemoUNet(
        {
            "image_size": config["image_size"] // 8,
            "in_channels": latent,
            "out_channels": latent,
            "model_channels": channels[0],
            "channel_mult": [c // channels[0] for c in channels],
            "num_res_blocks": [unet["res_blocks"]] * levels,
            "transformer_depth": [1] * (levels * unet["res_blocks"]),
            "transformer_depth_output": [1] * (levels * (unet["res_blocks"] + 1)),
            "transformer_depth_middle": 1,
            "context_dim": config["text"]["width"],
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
            "legacy": False,
        }
    )
    model_config.unet_config["num_heads"] = unet["heads"]
    model_config.unet_config["num_head_channels"] = -1
    model = _filled(model_config, weights)
    _use_groups(model.model.diffusion_model, unet["norm_groups"])
    return model


def _transformer(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    given = config["transformer"]
    options = {
        "image_model": "flux",
        "in_channels": given["channels"],
        "out_channels": given["channels"],
        "vec_in_dim": given["pooled"],
        "context_in_dim": given["context"],
        "hidden_size": given["heads"] * given["head_width"],
        "mlp_ratio": float(given["mlp_ratio"]),
        "num_heads": given["heads"],
        "depth": given["double_blocks"],
        "depth_single_blocks": given["single_blocks"],
        "axes_dim": given["rope"],
        "theta": given["theta"],
        "patch_size": given["patch"],
        "qkv_bias": True,
        "guidance_embed": False,
    }
    if "txt_ids_dims" in inspect.signature(FluxParams).parameters:
        options["txt_ids_dims"] = []
    model = _filled(_DemoFlux(options), weights)
    _check_patches(model.model, given)
    return model


def _filled(model_config: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The host's model of a configuration, with weights."""
    device = comfy.model_management.get_torch_device()
    aside = comfy.model_management.unet_offload_device()
    dtypes = _precision(weights, device, model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(*dtypes)
    model = model_config.get_model({}, "", device=aside)
    model.load_model_weights({**weights}, UNET_PREFIX)  # it takes out what it loads
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=aside)


@torch.inference_mode()
def _check_patches(model: Any, given: dict[str, Any]) -> None:
    """Raise `ValueError` where the host's Flux knows patches of 2 alone."""
    dtype = model.manual_cast_dtype or model.get_dtype()
    pixels = torch.zeros(1, given["channels"], 2, 2, dtype=dtype)
    words = torch.zeros(1, 1, given["context"], dtype=dtype)
    if model.diffusion_model(pixels, torch.ones(1, dtype=dtype), words).shape != pixels.shape:
        raise ValueError(
            "Expected a ComfyUI whose Flux can have patches of 1, for the demo model MMDiT, got an "
            "older one. Update ComfyUI, or choose the demo model UNet."
        )


def _precision(
    weights: dict[str, torch.Tensor], device: torch.device, supported: Sequence[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """How the network's weights are kept, and what they are cast to for use, None for nothing.

    By the device and the flags that the host was started with, as its own checkpoint loader does.
    """
    kept = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights, UNET_PREFIX),
        supported_dtypes=[*supported],
        weight_dtype=comfy.utils.weight_dtype(weights, UNET_PREFIX),
    )
    return kept, comfy.model_management.unet_manual_cast(kept, device, [*supported])


def _clip(weights: dict[str, torch.Tensor], text: dict[str, Any]) -> Any:
    """The text encoder for `text["tokens"]` tokens, of which the weights may have more."""

    class DemoTextModel(comfy.sd1_clip.SDClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: Any = None
        ) -> None:
            config = {
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "max_position_embeddings": text["tokens"],
                "hidden_act": "quick_gelu",
                "eos_token_id": text["vocabulary"] - 1,
            }
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=text["tokens"],
                textmodel_json_config=config,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class Target:
        params = {"clip_model": DemoTextModel}  # noqa: RUF012 - the host's own shape of a clip target
        clip = comfy.sd1_clip.SD1ClipModel
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    state = {
        "clip_l.transformer." + key: value for key, value in _part(weights, TEXT_PREFIX).items()
    }
    state["clip_l.transformer.text_projection.weight"] = torch.eye(text["width"])
    positions = "clip_l.transformer.text_model.embeddings.position_embedding.weight"
    state[positions] = state[positions][: text["tokens"]]
    parameters = comfy.utils.calculate_parameters(state)
    clip = comfy.sd.CLIP(
        Target,
        embedding_directory=None,
        parameters=parameters,
        tokenizer_data={"clip_l_max_length": text["tokens"]},
    )
    clip.load_sd(state, full_model=True)
    return clip


def _vae(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    parameters = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": config["channels"][0],
        "ch_mult": [c // config["channels"][0] for c in config["channels"]],
        "num_res_blocks": config["res_blocks"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    state = _part(weights, AUTOENCODER_PREFIX)
    vae = comfy.sd.VAE(
        sd=state,
        config={"params": {"ddconfig": parameters, "embed_dim": config["latent_channels"]}},
    )
    _use_groups(vae.first_stage_model, config["norm_groups"])
    return vae
