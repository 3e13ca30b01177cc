"""What editing a known source costs, beside sampling it again with its edit.

At twice the demo models' own size: at it, what a call of so small a network costs is half its own
and not its rows', which no model in use is small enough for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...controller import Chain
from ...demo.joint_architecture import MODELS
from ...edits import SelfInjection, WordSwap
from ...hosts.comfyui.conditioning import build_controller
from ...hosts.comfyui.demo import empty_latent
from ...hosts.comfyui.demo_models import load_demo
from ...hosts.comfyui.sampling import sample
from ...hosts.comfyui.sourcing import sample_source
from ...schedules import Schedule, Window
from ..meter import compare, counted

PROMPT = "a red circle on the grass"
WORDS = ("star", "square", "triangle", "heart")
STEPS = 10
CASES: Mapping[str, tuple[int, float, float]] = {
    "cfg_0.4": (1, 3.0, 0.4),
    "cfg_0.8": (1, 3.0, 0.8),
    "no_cfg_0.4": (1, 1.0, 0.4),
    "four_edits_0.4": (4, 3.0, 0.4),
}
"""How many edits, the guidance scale, and the end of all windows."""


def known_source(repeats: int) -> dict[str, Any]:
    """Measure each demo model that there is: an edit of a known source, the first edit = 1."""
    told: dict[str, Any] = {}
    for name, path in MODELS.items():
        model, clip, *_ = load_demo(path)
        told[name.lower()] = {
            case: measured(model, clip, *given, repeats) for case, given in CASES.items()
        }
    return {"known_source": told}


def measured(
    model: Any, clip: Any, edits: int, cfg: float, end: float, repeats: int
) -> dict[str, float]:
    """Measure time, and rows through the network, of a re-edit ÷ those of the first edit.

    `trajectory` is what is kept of the source ÷ a latent for each step.
    """
    latent = empty_latent().repeat(1, 1, 2, 2)
    settings: dict[str, Any] = {
        "negative": clip.encode_from_tokens_scheduled(clip.tokenize("")),
        "latent": {"samples": latent},
        "seed": 0,
        "steps": STEPS,
        "cfg": cfg,
        "sampler_name": "euler",
        "scheduler": "normal",
    }
    encoded = build_controller(clip, PROMPT, [swap(word, end) for word in WORDS[:edits]])
    source = sample_source(model, clip, PROMPT, **settings)
    first = partial(sample, model, encoded, **settings)
    again = partial(sample, model, encoded, inversion=source, **settings)
    kept = source.found.trajectory
    return {
        "time_ratio": compare(f"{edits} edit(s), {end:g}", again, first, repeats).time_ratio,
        "evaluations_ratio": evaluations(model, again) / evaluations(model, first),
        "trajectory": kept.numel() / (STEPS * latent.numel()),
    }


def swap(word: str, end: float) -> Chain:
    """Swap the prompt's shape, in windows that all end there."""
    window = Window(0.0, end)
    injection = SelfInjection(window)
    return (WordSwap("circle", word, schedule=Schedule(window), self_injection=injection),)


def evaluations(model: Any, work: Callable[[], object]) -> int:
    """Count the rows that go through a model's network."""
    with counted(model.model.diffusion_model) as rows:
        work()
    return sum(rows)
