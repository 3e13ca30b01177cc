"""The demo model as ComfyUI's own MODEL, CLIP and VAE, so that every stock node works on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import numpy as np
import safetensors
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.utils import get_executing_context

from ...attention_maps import WordMaps, indicator
from ...controller import Rows
from ...demo.architecture import AUTOENCODER_PREFIX, CONFIG, TEXT_PREFIX, UNET_PREFIX, WEIGHTS
from .attention import attach
from .conditioning import PAYLOAD_KEY, Conditioning, Payload
from .prompts import read

log = logging.getLogger("p2p.demo")


def load_demo(path: Path = WEIGHTS) -> tuple[Any, Any, Any]:
    """Read the demo checkpoint: (MODEL, CLIP, VAE).

    Raises `ValueError` if the file is missing or is no demo checkpoint.
    """
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
    config = json.loads(metadata["p2p_demo"])
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    return (
        _model(weights, config),
        _clip(weights, config["text"]),
        _vae(weights, config["autoencoder"]),
    )


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _use_groups(network: torch.nn.Module, groups: int) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups


class _DemoConfig(comfy.supported_models.SD15):
    """SD1.5's configuration with v-prediction, as SD2's."""

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


def _model(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    unet = config["unet"]
    channels, levels = unet["channels"], len(unet["channels"])
    latent = config["autoencoder"]["latent_channels"]
    model_config = _DemoConfig(
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
    device = comfy.model_management.get_torch_device()
    dtypes = _precision(weights, device, model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(*dtypes)
    model = model_config.get_model({}, "", device=comfy.model_management.unet_offload_device())
    _use_groups(model.diffusion_model, unet["norm_groups"])
    model.load_model_weights({**weights}, UNET_PREFIX)  # it takes out what it loads
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )


def empty_latent(images: int = 1) -> torch.Tensor:
    """Latents of the size that the model was trained on: zeros[images channels height width]."""
    side = CONFIG["image_size"] // 8
    return torch.zeros(images, CONFIG["autoencoder"]["latent_channels"], side, side)


def wary_of_size(model: Any) -> Any:
    """Make the demo model say of other sizes than its own what will come of them."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "p2p_demo", _look_at_size)
    return model


def _look_at_size(executor: Any, noise: torch.Tensor, *rest: Any, **named: Any) -> Any:
    """Wraps sampling, by any node."""
    height, width = (8 * side for side in noise.shape[-2:])
    if max(height, width) > 2 * CONFIG["image_size"]:
        known = f"{CONFIG['image_size']}×{CONFIG['image_size']}"
        text = (
            f"The demo model knows pictures of {known}; at {width}×{height} it scatters shapes "
            "and takes long. Connect P2P Demo Checkpoint's own latent."
        )
        log.warning(text)
        context = get_executing_context()
        if context is not None:  # in a server
            from server import PromptServer

            PromptServer.instance.send_progress_text(text, context.node_id)
    return executor(noise, *rest, **named)


def _precision(
    weights: dict[str, torch.Tensor], device: torch.device, supported: Sequence[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """How the UNet's weights are kept, and what they are cast to for use, None for nothing.

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


class DemoPipeline:
    """The demo model sampled in this process, with the stock KSampler's own function."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        self.model, self.clip, self.vae = load_demo(path)

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Encode texts as one conditioning with a row per text."""
        rows = [
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0][0] for text in texts
        ]
        return [[torch.cat(rows), {}]]

    def sample(
        self,
        texts: Sequence[str],
        seed: int,
        steps: int,
        cfg: float,
        words: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """Sample one image per text, all from one seed's noise batch.

        Returns (uint8[texts h w 3], word maps[texts h w] or None).
        `words` names the word of each text whose attention map is returned, at the latent's own
        resolution.
        """
        latent = empty_latent(len(texts))
        model, positive, maps = self.model, self.encode(texts), None
        if words is not None:
            prompts = [read(self.clip, text) for text in texts]
            columns = [
                indicator(prompt, [word]) for prompt, word in zip(prompts, words, strict=True)
            ]
            maps = WordMaps(torch.stack(columns)[:, None])
            model = attach(model)
            payload = Payload(None, Rows(len(texts), 0), (maps,))
            positive = [[cond, {**extra, PAYLOAD_KEY: payload}] for cond, extra in positive]
        samples = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, seed),
            steps,
            cfg,
            "euler",
            "normal",
            positive,
            self.encode([""]),
            latent,
            disable_pbar=True,
            seed=seed,
        )
        return self.decode(samples), None if maps is None else maps.mean()[:, 0]

    def decode(self, samples: torch.Tensor) -> np.ndarray:
        """Decode latents to images: uint8[images h w 3]."""
        return (self.vae.decode(samples).clamp(0, 1) * 255).round().byte().cpu().numpy()

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encode and decode images by the autoencoder: uint8[images h w 3] both ways."""
        pixels = torch.from_numpy(images.astype(np.float32) / 255)
        return self.decode(self.vae.encode(pixels))
