"""The registry's archive is a pack that a host loads, alone."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys

import pytest
from archive import ROOT, archived

NAME = "prompt_to_prompt_archive"


@pytest.fixture
def unpacked(tmp_path):
    """The archive's files in a folder of their own; what is imported of them is forgotten again."""
    for path in archived():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    yield tmp_path
    for name in [*sys.modules]:
        if name.split(".")[0] == NAME:
            del sys.modules[name]


def test_the_archive_is_a_pack(unpacked):
    spec = importlib.util.spec_from_file_location(
        NAME, unpacked / "__init__.py", submodule_search_locations=[str(unpacked)]
    )
    pack = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)

    async def nodes():
        return await (await pack.comfy_entrypoint()).get_node_list()

    found = {node.define_schema().node_id: node for node in asyncio.run(nodes())}
    docs = unpacked / pack.WEB_DIRECTORY / "docs"
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.*")}
    kinds = (".md", ".jpg", "/zh.md", "/ja.md")
    assert pages == {f"{name}{kind}" for name in found for kind in kinds}
    model = found["P2P_DemoCheckpoint"].execute().result[0]
    assert model.model is not None
    ours = [one for name, one in sys.modules.items() if name.split(".")[0] == NAME]
    assert len(ours) > 40
    assert all(one.__file__.startswith(str(unpacked)) for one in ours)
