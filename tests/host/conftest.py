"""The demo model in this process, and the stock host's own sampling to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from runs import PROMPT, Settings
from torch import Tensor


@dataclass(frozen=True)
class Demo:
    model: Any
    clip: Any
    vae: Any

    def encode(self, text: str) -> list[list[Any]]:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


@pytest.fixture(scope="session")
def demo() -> Demo:
    from p2p_core.hosts.comfyui.demo_models import load_demo

    return Demo(*load_demo())


@pytest.fixture
def latent() -> dict[str, Any]:
    return {"samples": torch.zeros(1, 4, 16, 16)}


@pytest.fixture(scope="session")
def stock(demo: Demo) -> Callable[..., Tensor]:
    """The stock KSampler's latent for a text."""
    import nodes

    def run(text: str, latent: dict[str, Any], settings: Settings, model: Any = None) -> Tensor:
        options = vars(settings)
        return nodes.common_ksampler(
            model or demo.model,
            options["seed"],
            options["steps"],
            options["cfg"],
            options["sampler_name"],
            options["scheduler"],
            demo.encode(text),
            demo.encode(""),
            latent,
            denoise=options["denoise"],
        )[0]["samples"]

    return run


@pytest.fixture(scope="session")
def p2p(demo: Demo) -> Callable[..., tuple[Tensor, Tensor]]:
    """(source, edited) of the P2P KSampler's function for chains of edits."""
    from p2p_core.hosts.comfyui.conditioning import build_controller
    from p2p_core.hosts.comfyui.sampling import sample

    def run(
        chains: Any,
        latent: dict[str, Any],
        settings: Settings,
        model: Any = None,
        prompt: str = PROMPT,
        negative: Any = None,
    ) -> tuple[Tensor, Tensor]:
        encoded = build_controller(demo.clip, prompt, chains)
        result = sample(
            model or demo.model,
            encoded,
            negative=demo.encode("") if negative is None else negative,
            latent=latent,
            **vars(settings),
        )
        return result.source["samples"], result.edited["samples"]

    return run
