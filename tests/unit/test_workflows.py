"""What every shipped workflow has, so that it can be found, read and run."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "workflows").glob("*.json"))
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}

LOADERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
}
"""The folder of models that a loader reads, by its type."""


def of_type(workflow: dict[str, Any], *types: str) -> list[dict[str, Any]]:
    return [node for node in workflow["nodes"] if node["type"] in types]


def test_the_names_count_in_the_order_in_which_to_read_them() -> None:
    numbers = sorted(int(name.split("_")[0]) for name in WORKFLOWS)
    assert numbers == list(range(1, len(WORKFLOWS) + 1))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_says_on_the_canvas_what_it_is(name: str) -> None:
    workflow = WORKFLOWS[name]
    (note,) = of_type(workflow, "MarkdownNote")
    assert note["widgets_values"][0].startswith("## ")
    assert "**Run**" in note["widgets_values"][0]
    assert workflow["groups"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_its_thumbnail_is_small_and_shows_pictures_side_by_side(name: str) -> None:
    path = ROOT / "workflows" / f"{name}.jpg"
    width, height = Image.open(path).size
    assert height == 256
    assert width > 2 * height
    assert path.stat().st_size < 40_000


@pytest.mark.parametrize("name", WORKFLOWS)
def test_models_that_are_not_ours_come_with_their_addresses(name: str) -> None:
    """Each file that a loader names, in its folder."""
    for loader in of_type(WORKFLOWS[name], *LOADERS):
        models = loader["properties"]["models"]
        files = [one for one in loader["widgets_values"] if one.endswith(".safetensors")]
        assert [model["name"] for model in models] == files
        for model in models:
            assert model["directory"] == LOADERS[loader["type"]]
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].removesuffix("?download=true").endswith(f"/{model['name']}")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_photograph_is_resized_before_it_is_encoded(name: str) -> None:
    workflow = WORKFLOWS[name]
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    for _, origin, _, target, _, kind in workflow["links"]:
        if types[target] == "VAEEncode" and kind == "IMAGE":
            assert types[origin] in ("ImageScaleToTotalPixels", "P2P_DemoImage")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_links_nodes_and_reroutes_agree(name: str) -> None:
    workflow = WORKFLOWS[name]
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, out, target, into, kind in workflow["links"]:
        assert link in nodes[origin]["outputs"][out]["links"]
        assert nodes[target]["inputs"][into]["link"] == link
        assert nodes[origin]["outputs"][out]["type"] == kind
    reroutes = {one["id"]: one for one in workflow["extra"].get("reroutes", [])}
    for extension in workflow["extra"].get("linkExtensions", []):
        place = extension["parentId"]
        while place is not None:
            assert extension["id"] in reroutes[place]["linkIds"]
            place = reroutes[place].get("parentId")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_groups_do_not_cut_each_other(name: str) -> None:
    boxes = [group["bounding"] for group in WORKFLOWS[name]["groups"]]
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
