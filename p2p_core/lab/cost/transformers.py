"""What the benchmark times of transformers: blocks of real width, few of them, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch

from ...controller import plan
from ...edits import ALIGNED, AUTOMATIC, SHARED, Joint, SelfInjection, WordSwap
from ...hosts.comfyui.conditioning import Conditioning, EncodedController
from ...hosts.comfyui.sampling import sample
from ...schedules import Schedule, Window
from ...tokens import Prompt, read_prompt

Work = Callable[[], Any]
PROMPT = "a red circle on the grass"


@dataclass(frozen=True)
class Blocks:
    """A model of few blocks: of the host's supported models, with its options."""

    config: str
    options: dict[str, Any]
    context: int
    tokens: int
    pooled: int = 0
    modes: tuple[tuple[str, str], ...] = (("shared", SHARED), ("aligned", ALIGNED))
    """What edits do there: (name in the report, mode)."""


BLOCKS: dict[str, Blocks] = {
    "flux_block": Blocks(
        "FluxSchnell",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": False,
            "txt_ids_dims": [],
        },
        4096,
        256,
        768,
    ),
    "sd3_block": Blocks(
        "SD3",
        {
            "in_channels": 16,
            "depth": 24,
            "num_blocks": 2,
            "patch_size": 2,
            "input_size": None,
            "adm_in_channels": 2048,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 1536},
            },
            "num_patches": 192**2,
            "pos_embed_max_size": 192,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
        },
        4096,
        154,
        2048,
    ),
    "wan_block": Blocks(
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 1536,
            "ffn_dim": 8960,
            "freq_dim": 256,
            "text_dim": 4096,
            "num_heads": 12,
            "num_layers": 2,
            "in_dim": 16,
            "out_dim": 16,
        },
        4096,
        512,
        modes=(("aligned", AUTOMATIC),),
    ),
}
SIDE = 64
"""Of the latents: 1024 tokens of 2 × 2."""


@dataclass(frozen=True)
class TransformerBench:
    """A model to be timed, one step without guidance."""

    blocks: Blocks
    model: Any

    @classmethod
    def of(cls, blocks: Blocks) -> TransformerBench:
        """Make the model with random weights, in half precision."""
        config = getattr(comfy.supported_models, blocks.config)(dict(blocks.options))
        device = comfy.model_management.get_torch_device()
        config.set_inference_dtype(torch.bfloat16, None)
        network = config.get_model({}, "", device=device)
        generator = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            for parameter in network.diffusion_model.parameters():
                parameter.normal_(0, 0.02, generator=generator)
            for buffer in network.diffusion_model.buffers():
                buffer.normal_(0, 0.02, generator=generator)
        model = comfy.model_patcher.ModelPatcher(
            network, load_device=device, offload_device=torch.device("cpu")
        )
        return cls(blocks, model)

    def ours(self, mode: str) -> Work:
        """Sample source and edit together, the edit acting in every block."""
        edit = WordSwap(
            "circle",
            "star",
            schedule=Schedule(),
            self_injection=SelfInjection(Window()),
            joint=Joint(mode),
        )
        encoded = EncodedController.of(plan(PROMPT, [(edit,)], self._read), self._texts(2))
        return partial(
            sample,
            self.model,
            encoded,
            negative=self._texts(1, seed=1),
            latent={"samples": self._latent(1)},
            seed=0,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
        )

    def stock(self) -> Work:
        """Sample two images by the stock KSampler."""
        return partial(
            comfy.sample.sample,
            self.model,
            comfy.sample.prepare_noise(self._latent(2), 0),
            1,
            1.0,
            "euler",
            "simple",
            self._texts(2),
            self._texts(1, seed=1),
            self._latent(2),
            disable_pbar=True,
            seed=0,
        )

    def _latent(self, rows: int) -> torch.Tensor:
        wanted = self.model.get_model_object("latent_format")
        frames = [1] * (getattr(wanted, "latent_dimensions", 2) - 2)
        return torch.zeros(rows, wanted.latent_channels, *frames, SIDE, SIDE)

    def _read(self, text: str) -> Prompt:
        """A token a word, as many as the encoder fills up to."""
        words = text.split()
        return read_prompt(text, words, range(len(words)), self.blocks.tokens, str.split)

    def _texts(self, rows: int, seed: int = 0) -> Conditioning:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(rows, self.blocks.pooled or 1, generator=generator)
        cond = torch.randn(rows, self.blocks.tokens, self.blocks.context, generator=generator)
        return [[cond, {"pooled_output": pooled if self.blocks.pooled else None}]]
