"""What the host shows while it samples: source and edits side by side."""

import comfy.utils
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from runs import PROMPT, Settings

from p2p_core.controller import Rows
from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.previews import joined
from p2p_core.hosts.comfyui.sampling import sample

SETTINGS = Settings(steps=2)
CHAINS = [(WordSwap("circle", "star"),), (WordSwap("circle", "heart"),)]


@pytest.fixture
def shown(monkeypatch):
    """The sizes, width and height, of what the host is given to show."""
    sizes = []

    def hook(value, total, preview, *_, **__):
        if preview is not None:
            sizes.append(preview[1].size)

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return sizes


@pytest.mark.parametrize(("images", "chains"), [(1, 2), (2, 1), (1, 0)])
def test_every_row_of_a_run_is_shown(images, chains, demo, shown):
    latent = torch.zeros(images, 4, 16, 12)
    encoded = build_controller(demo.clip, PROMPT, CHAINS[:chains])
    sample(
        demo.model,
        encoded,
        negative=demo.encode(""),
        latent={"samples": latent},
        **vars(SETTINGS),
    )
    assert shown == [((1 + chains) * 12, images * 16)] * SETTINGS.steps


@pytest.mark.parametrize("shape", [(4, 6, 8), (4, 3, 6, 8)])
def test_each_row_has_its_place_in_images_and_in_videos(shape):
    rows = Rows(sources=2, edits=2)
    latents = torch.rand(rows.total, *shape)
    strip = joined(latents, rows)
    assert strip.shape == (1, *shape[:-2], 2 * shape[-2], 3 * shape[-1])
    for prompt in range(3):
        for source in range(2):
            high = slice(source * shape[-2], (source + 1) * shape[-2])
            wide = slice(prompt * shape[-1], (prompt + 1) * shape[-1])
            assert torch.equal(strip[0, ..., high, wide], latents[2 * prompt + source])
