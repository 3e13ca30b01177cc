"""The SD1.5 workflow runs with the stock loader: a checkpoint of SD1.5's shapes, random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt


def shapes() -> Iterator[tuple[str, torch.Size]]:
    """Names and shapes of an SD1.5 checkpoint, from the host's own modules."""
    import comfy.ops
    import comfy.sd1_clip
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from p2p_core.lab.cost.comfyui import SD15

    meta = torch.device("meta")
    unet = UNetModel(**SD15, num_heads=8, device=meta, operations=comfy.ops.disable_weight_init)
    with meta:
        vae = AutoencoderKL(
            ddconfig={
                "double_z": True,
                "z_channels": 4,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            embed_dim=4,
        )
    clip = comfy.sd1_clip.SD1ClipModel(device=meta, dtype=torch.float16)
    yield from (("model.diffusion_model." + k, v.shape) for k, v in unet.state_dict().items())
    yield from (("first_stage_model." + k, v.shape) for k, v in vae.state_dict().items())
    for key, value in clip.state_dict().items():
        if "logit_scale" not in key and "text_projection" not in key:
            yield key.replace("clip_l.", "cond_stage_model.", 1), value.shape


@pytest.fixture
def checkpoint(server: Server) -> Iterator[str]:
    """The name of a random SD1.5 checkpoint in the server's models, removed afterwards."""
    from safetensors.torch import save_file

    pool = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    weights = {
        name: pool.repeat(-(-shape.numel() // len(pool)))[: shape.numel()].reshape(shape).clone()
        for name, shape in shapes()
    }
    path = Path(server.base) / "models" / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    yield path.name
    path.unlink()


def test_the_sd15_workflow_runs_as_shipped(server: Server, checkpoint: str) -> None:
    """Only size and steps are made small; the file's name is the workflow's own."""
    workflow: dict[str, Any] = json.loads(
        (ROOT / "workflows" / "7_word_swap_sd15.json").read_text(encoding="utf-8")
    )
    prompt = to_prompt(workflow, server.get("/object_info"))
    assert by_type(prompt, "CheckpointLoaderSimple")["ckpt_name"] == checkpoint
    by_type(prompt, "EmptyLatentImage").update(width=64, height=64)
    by_type(prompt, "P2P_KSampler").update(steps=2)
    by_type(prompt, "KSampler").update(steps=2)
    images = server.images(server.queue(prompt))
    assert [image.size for image in images] == [(64, 64)] * 3
    assert all(np.isfinite(np.asarray(image)).all() for image in images)


def test_the_photo_workflow_runs_as_shipped(server: Server, checkpoint: str) -> None:
    """Only steps are made few, and the size small; what random weights make of it is no matter."""
    workflow: dict[str, Any] = json.loads(
        (ROOT / "workflows" / "8_photo_sd15.json").read_text(encoding="utf-8")
    )
    path = Path(server.base) / "input" / "example.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((300, 200)).convert("RGB").save(path)
    prompt = to_prompt(workflow, server.get("/object_info"))
    assert by_type(prompt, "CheckpointLoaderSimple")["ckpt_name"] == checkpoint
    by_type(prompt, "ImageScaleToTotalPixels").update(megapixels=0.01)
    by_type(prompt, "P2P_NullTextInversion").update(steps=2)
    by_type(prompt, "P2P_KSampler").update(steps=2)
    images = server.images(server.queue(prompt))
    assert [image.size for image in images] == [(120, 80)] * 2, "the photograph's own shape"
