"""The subgraph that newer hosts offer on the canvas as one node."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import pytest

from p2p_core.hosts.launch.locate import ROOT
from p2p_core.hosts.launch.server import PACK_NAME, Server

FILE = ROOT / "subgraphs" / "Prompt-to-Prompt edit.json"


def offered(server: Server) -> dict[str, Any]:
    """Blueprints of this pack by their id; skips where the host knows no blueprints."""
    try:
        every = server.get("/global_subgraphs")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        pytest.skip("blueprints came with later hosts")
    own = f"custom_nodes.{PACK_NAME}"
    return {key: one for key, one in every.items() if one["info"]["node_pack"] == own}


def test_the_host_offers_it_by_its_name(server: Server) -> None:
    ((key, one),) = offered(server).items()
    assert one["name"] == FILE.stem
    data = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
    assert data == json.loads(FILE.read_text(encoding="utf-8"))


def test_it_names_nodes_inputs_and_outputs_that_exist(server: Server) -> None:
    info = server.get("/object_info")
    (subgraph,) = json.loads(FILE.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for node in nodes.values():
        known = info[node["type"]]
        names = {**known["input"]["required"], **known["input"].get("optional", {})}
        assert {one["name"] for one in node["inputs"]} <= set(names)
        assert [one["type"] for one in node["outputs"]] == known["output"][: len(node["outputs"])]
    for link in subgraph["links"]:
        if link["target_id"] in nodes:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        else:
            assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]
        if link["origin_id"] in nodes:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
