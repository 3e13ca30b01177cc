"""What the benchmark times in ComfyUI: source and edits, beside the stock KSampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...controller import Chain, plan
from ...edits import Refine, Reweight, SelfInjection, WordSwap
from ...hosts.comfyui.conditioning import Conditioning, EncodedController
from ...hosts.comfyui.demo_models import load_demo
from ...hosts.comfyui.families.unet import cross_attention_blocks
from ...hosts.comfyui.inverting import invert
from ...hosts.comfyui.prompts import read
from ...hosts.comfyui.sampling import sample
from ...inversion.methods import Options
from ...inversion.null_text import Schedule as NullTexts
from ...local_blend import LocalBlend
from ...schedules import Schedule, Window

Work = Callable[[], Any]

PROMPT = "a red circle on the grass"
ALWAYS = {"schedule": Schedule(), "self_injection": SelfInjection(Window(), 1.0)}
"""Attention injected in every step and every layer: the most there is to do."""

SWAP: Chain = (WordSwap("circle", "star", **ALWAYS),)
REFINE_REWEIGHT: Chain = (
    Refine("a big red circle on the green grass", **ALWAYS),
    Reweight((("big", 2.0), ("grass", -0.5))),
)
LOCAL_BLEND: Chain = (*SWAP, LocalBlend(("circle",), ("star",), start=0.0))

SD15: dict[str, Any] = {
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

SDXL: dict[str, Any] = {
    **SD15,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
"""The host's configuration of SDXL's UNet, head count apart."""


@dataclass(frozen=True)
class Bench:
    """A model to be timed, latents of `side` × `side` and so many steps."""

    model: Any
    clip: Any
    context: int
    pooled: int
    side: int
    steps: int

    @classmethod
    def demo(cls, steps: int) -> Bench:
        """Load the demo model at its own size."""
        model, clip, _ = load_demo()
        return cls(model, clip, 128, 0, 16, steps)

    @classmethod
    def of(
        cls, architecture: dict[str, Any], side: int, steps: int, half: bool | None = None
    ) -> Bench:
        """Make a UNet of this configuration with random weights.

        In half precision where asked for, on an accelerator, and where it is large.
        """
        xl = architecture["adm_in_channels"] is not None
        known = comfy.supported_models.SDXL if xl else comfy.supported_models.SD15
        config = known(architecture)
        device = comfy.model_management.get_torch_device()
        cpu = torch.bfloat16 if (xl if half is None else half) else torch.float32
        config.set_inference_dtype(cpu if device.type == "cpu" else torch.float16, None)
        network = config.get_model({}, "", device=device)
        generator = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            for parameter in network.diffusion_model.parameters():
                parameter.normal_(0, 0.02, generator=generator)
        model = comfy.model_patcher.ModelPatcher(
            network, load_device=device, offload_device=torch.device("cpu")
        )
        _, clip, _ = load_demo()  # the same tokenizer
        return cls(model, clip, architecture["context_dim"], 1280 if xl else 0, side, steps)

    def ours(self, chains: Sequence[Chain]) -> Work:
        """Sample source and edits together by the P2P KSampler's function."""
        controller = plan(PROMPT, chains, lambda text: read(self.clip, text))
        encoded = EncodedController.of(controller, self._texts(1 + len(chains)))
        return partial(
            sample,
            self.model,
            encoded,
            negative=self._texts(1, seed=1),
            latent={"samples": torch.zeros(1, 4, self.side, self.side)},
            seed=0,
            steps=self.steps,
            cfg=7.5,
            sampler_name="euler",
            scheduler="normal",
        )

    def stock(self, rows: int, model: Any = None) -> Work:
        """Sample as many images by the stock KSampler."""
        latent = torch.zeros(1, 4, self.side, self.side)
        noise = comfy.sample.prepare_noise(latent, 0).repeat(rows, 1, 1, 1)
        return partial(
            comfy.sample.sample,
            model or self.model,
            noise,
            self.steps,
            7.5,
            "euler",
            "normal",
            self._texts(rows),
            self._texts(1, seed=1),
            latent.repeat(rows, 1, 1, 1),
            disable_pbar=True,
            seed=0,
        )

    def explicit(self) -> Work:
        """Sample the swap as the authors' code makes it: every map made, edited and multiplied."""
        return self.stock(2, with_explicit_maps(self.model))

    def inversion(self, low_memory: bool) -> Work:
        """Invert an image by null text, one inner step at each step."""
        sampling = self.model.get_model_object("model_sampling")
        return partial(
            invert,
            self.model,
            Options("null-text", NullTexts(inner_steps=1, early_stop=0)),
            source=self._texts(1),
            negative=self._texts(1, seed=1),
            latent=torch.zeros(1, 4, self.side, self.side),
            sigmas=comfy.samplers.calculate_sigmas(sampling, "normal", self.steps),
            guidance=7.5,
            low_memory=low_memory,
        )

    def _texts(self, rows: int, seed: int = 0) -> Conditioning:
        generator = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(rows, self.pooled, generator=generator)}
        cond = torch.randn(rows, 77, self.context, generator=generator)
        return [[cond, extra if self.pooled else {}]]


def with_explicit_maps(model: Any) -> Any:
    """Clone the model so that row 1 of each conditioning takes row 0's attention maps."""

    def replaced(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        rows, pixels, channels = q.shape
        heads = extra["n_heads"]
        q, k, v = (t.view(rows, -1, heads, channels // heads).transpose(1, 2) for t in (q, k, v))
        maps = (q @ k.mT * (channels // heads) ** -0.5).softmax(-1)
        start = extra["cond_or_uncond"].index(0) * (rows // len(extra["cond_or_uncond"]))
        maps[start + 1] = maps[start]
        return (maps @ v).transpose(1, 2).reshape(rows, pixels, channels)

    patched = model.clone()
    for block in cross_attention_blocks(model):
        patched.set_model_attn1_replace(replaced, *block)
        patched.set_model_attn2_replace(replaced, *block)
    return patched


def quiet() -> None:
    """Silence the host's progress bars."""
    comfy.utils.set_progress_bar_enabled(False)
