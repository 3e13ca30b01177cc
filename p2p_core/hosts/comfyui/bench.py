"""What the benchmark times in ComfyUI: the P2P KSampler's function beside the stock one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import comfy.utils
import torch

from ...controller import plan
from ...edits import SelfInjection, WordSwap
from ...schedules import Schedule, Window
from .conditioning import Conditioning, EncodedController, read
from .demo import load_demo
from .sampling import sample

Work = tuple[Callable[[], Any], Callable[[], Any]]
"""The two runs to compare: (ours, stock)."""

PROMPT = "a red circle on the grass"
ALWAYS = WordSwap(
    "circle", "star", schedule=Schedule(Window()), self_injection=SelfInjection(Window())
)


SD15_UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
"""The host's configuration of SD1.5's UNet, head count apart."""


def demo_work(steps: int) -> Work:
    """At the demo model's own size."""
    model, clip, _ = load_demo()
    texts = (PROMPT, PROMPT.replace("circle", "star"), "")
    rows = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in texts]
    return _work(model, clip, torch.cat(rows[:2]), rows[2], side=16, steps=steps)


def sd15_work(side: int, steps: int) -> Work:
    """At SD1.5's architecture, random weights, latents of `side` × `side`."""
    config = comfy.supported_models.SD15(SD15_UNET)
    device = comfy.model_management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    config.set_inference_dtype(dtype, None)
    network = config.get_model({}, "", device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in network.diffusion_model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    model = comfy.model_patcher.ModelPatcher(
        network, load_device=device, offload_device=torch.device("cpu")
    )
    _, clip, _ = load_demo()  # the same tokenizer
    texts = torch.randn(3, 77, 768, generator=torch.Generator().manual_seed(0))
    return _work(model, clip, texts[:2], texts[2:], side, steps)


def _work(
    model: Any, clip: Any, positive: torch.Tensor, negative: torch.Tensor, side: int, steps: int
) -> Work:
    controller = plan(PROMPT, [(ALWAYS,)], lambda text: read(clip, text))
    encoded = EncodedController.of(controller, [[positive, {}]])
    none: Conditioning = [[negative, {}]]
    comfy.utils.set_progress_bar_enabled(False)
    latent = torch.zeros(1, 4, side, side)

    def ours() -> Any:
        return sample(
            model,
            encoded,
            negative=none,
            latent={"samples": latent},
            seed=0,
            steps=steps,
            cfg=7.5,
            sampler_name="euler",
            scheduler="normal",
        )

    def stock() -> Any:
        noise = comfy.sample.prepare_noise(latent, 0).repeat(2, 1, 1, 1)
        batch = latent.repeat(2, 1, 1, 1)
        conditionings = ([[positive, {}]], none)
        return comfy.sample.sample(
            model,
            noise,
            steps,
            7.5,
            "euler",
            "normal",
            *conditionings,
            batch,
            disable_pbar=True,
            seed=0,
        )

    return ours, stock
