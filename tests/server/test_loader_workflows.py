"""Workflows for today's models run as they ship, with the host's own loaders, on small files.

Files have the workflows' own names and random weights of the host's own classes. The loaders take
some widths for granted: those of all text encoders, of Wan's autoencoders, and of Qwen-Image's,
Z-Image's, Anima's and (its text's alone) Wan's transformers; older ones Flux's, too. There the
server of these tests is given small ones, see `narrow`; what a file holds is detected by the host
in all other respects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_files
from shipped import read, skip_if_newer

from p2p_core.hosts.launch.locate import ROOT, Host
from p2p_core.hosts.launch.server import PromptFailed, Server
from p2p_core.hosts.launch.workflow import by_type, to_prompt

SUPPORT = ROOT / "tests" / "support"


@dataclass(frozen=True)
class Case:
    """A workflow, and what is made small in it."""

    files: Callable[[], Iterator[tuple[str, small_files.Weights]]]
    sizes: dict[str, dict[str, int]]
    """Inputs by the type of their node."""
    pictures: list[int] = field(default_factory=lambda: [1, 1])
    """How many each output node shows."""


SMALL = {"width": 64, "height": 64}
TWO = {"steps": 2}
SAMPLED = {"EmptySD3LatentImage": SMALL, "P2P_KSampler": TWO}
CASES = {
    "10_word_swap_flux": Case(small_files.flux, SAMPLED),
    "11_word_swap_flux2_klein": Case(
        small_files.klein,
        {"EmptyFlux2LatentImage": SMALL, "Flux2Scheduler": {**SMALL, **TWO}},
        [2],
    ),
    "12_word_swap_sd35": Case(small_files.sd35, SAMPLED),
    "13_word_swap_qwen_image": Case(small_files.qwen_image, SAMPLED),
    "14_word_swap_z_image": Case(small_files.z_image, SAMPLED),
    "15_word_swap_anima": Case(small_files.anima, {"EmptyLatentImage": SMALL, "P2P_KSampler": TWO}),
    "17_word_weights_z_image": Case(
        small_files.z_image, {"EmptySD3LatentImage": SMALL, "KSampler": TWO}
    ),
}


@pytest.fixture(scope="module")
def loading(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests' own, whose loaders also build narrow networks."""
    base = tmp_path_factory.mktemp("loading")
    pack = base / "custom_nodes" / "narrow_networks.py"
    pack.parent.mkdir()
    pack.write_text(
        f"import sys\nsys.path.append({str(SUPPORT)!r})\nimport narrow\nnarrow.install()\n"
        "NODE_CLASS_MAPPINGS = {}\n",
        encoding="utf-8",
    )
    with Server(host, base=base) as running:
        yield running


@pytest.fixture
def models(loading: Server) -> Iterator[Callable[[Any], None]]:
    """A function that writes files into the server's models; they are removed afterwards."""
    written: list[Path] = []

    def write(files: Iterator[tuple[str, small_files.Weights]]) -> None:
        for name, weights in files:
            path = Path(loading.base) / "models" / name
            written.append(path)
            small_files.write(path, weights)

    yield write
    for path in written:
        path.unlink()


def path_of(name: str) -> Path:
    return ROOT / "workflows" / f"{name}.json"


def prompt_of(name: str, server: Server, sizes: dict[str, dict[str, int]]) -> dict[str, Any]:
    """A shipped workflow as the server runs it, with these inputs changed."""
    prompt = to_prompt(read(path_of(name)), server.get("/object_info"))
    for node in prompt.values():
        node["inputs"].update(sizes.get(node["class_type"], {}))
    return prompt


@pytest.mark.parametrize("name", CASES)
def test_a_workflow_for_a_model_of_today_runs_as_shipped(
    name: str, host: Host, loading: Server, models: Callable[[Any], None]
) -> None:
    """Only sizes and steps are made small; source and edit are pictures, and not the same."""
    case = CASES[name]
    skip_if_newer(path_of(name), host)
    models(case.files())
    outputs = loading.queue(prompt_of(name, loading, case.sizes))
    assert [len(output["images"]) for output in outputs.values()] == case.pictures
    source, edit = (np.asarray(image) for image in loading.images(outputs))
    assert source.shape == edit.shape == (64, 64, 3)
    assert (source != edit).any()


def test_the_video_workflow_runs_as_shipped(loading: Server, models: Callable[[Any], None]) -> None:
    """Five frames instead of five seconds; each of the two videos is a file of its own."""
    models(small_files.wan())
    sizes = {"Wan22ImageToVideoLatent": {**SMALL, "length": 5}, "P2P_KSampler": TWO}
    outputs = loading.queue(prompt_of("16_video_wan22", loading, sizes))
    names = [one["filename"] for output in outputs.values() for one in output["images"]]
    assert len(names) == 2
    source, edit = ((Path(loading.base) / "output" / name).read_bytes() for name in sorted(names))
    assert source != edit


def test_guidance_of_flux_is_set_on_the_way_to_the_sampler(
    loading: Server, models: Callable[[Any], None]
) -> None:
    """As the workflow's note has it: the model's own is 3.5, and another makes other pictures."""
    models(small_files.flux())

    def pictures(guidance: float | None) -> list[bytes]:
        prompt = prompt_of("10_word_swap_flux", loading, SAMPLED)
        sampler = by_type(prompt, "P2P_KSampler")
        if guidance is not None:
            controller, _ = sampler["controller"]
            inputs = {"conditioning": [controller, 2], "guidance": guidance}
            prompt["guidance"] = {"class_type": "FluxGuidance", "inputs": inputs}
            sampler["positive"] = ["guidance", 0]
        return [image.tobytes() for image in loading.images(loading.queue(prompt))]

    own = pictures(None)
    assert pictures(3.5) == own
    assert all(a != b for a, b in zip(pictures(8.0), own, strict=True))


MISTAKES = {
    "blocks that the model does not have": (
        {"P2P_WordSwap": {"blocks": "20-37"}},
        r"P2P_KSampler.*: Expected blocks that this model has, got '20-37' of 6 blocks "
        r"\(2 double, 4 single\)\. Choose others, or all",
    ),
    "more words than the encoder is given": (
        {"P2P_Controller": {"source_prompt": "a cat " + "and a bench " * 800}},
        r"P2P_Controller.*: Expected a prompt of at most 2048 tokens, got \d+\. Shorten it",
    ),
    "a video latent on an image model": (
        {"P2P_KSampler": {"latent_image": ["video", 0]}},
        r"P2P_KSampler.*: Expected a latent of shape \[images, 16, height, width\], got "
        r"\[1, 16, 2, 8, 8\]\. .* use an empty latent for this kind of model",
    ),
    "a model that cannot be edited": (
        {"UNETLoader": {"unet_name": "pixart.safetensors"}},
        r"P2P_KSampler.*: Expected a model of a family that is known \(.*Flux.*\), got "
        r"PixArt \(PixArtMS\)",
    ),
}
"""What is done to the workflow for Flux, and how the host tells of it."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_a_model_of_today_is_told_in_a_sentence(
    mistake: str, loading: Server, models: Callable[[Any], None]
) -> None:
    """On the node that it is of: what was expected, what came, and what to do."""
    models(small_files.flux())
    models(small_files.pixart())
    changes, said = MISTAKES[mistake]
    prompt = prompt_of("10_word_swap_flux", loading, SAMPLED)
    video = {**SMALL, "length": 5, "batch_size": 1}
    prompt["video"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": video}
    for kind, inputs in changes.items():
        by_type(prompt, kind).update(inputs)
    with pytest.raises(PromptFailed, match=said):
        loading.queue(prompt)
