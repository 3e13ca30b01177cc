"""Importing the pack costs a host little beyond what it has imported itself."""

import json
import subprocess
import sys

from archive import ROOT

MOST_SECONDS = 0.3
"""Of the processor, which other programs take no part of."""

CODE = """
import importlib.util, json, sys, tempfile, time
from pathlib import Path
root, host = map(Path, sys.argv[1:])
sys.path.insert(0, str(root))
from p2p_core.hosts.launch.in_process import enter_host
from p2p_core.hosts.launch.locate import read_host
with tempfile.TemporaryDirectory() as base:
    enter_host(read_host(host), Path(base))
    import comfy.samplers, comfy_api.latest, comfy_extras.nodes_custom_sampler, nodes, server
    for name in [one for one in sys.modules if one.split(".")[0] == "p2p_core"]:
        del sys.modules[name]
    sys.path.remove(str(root))
    before = time.process_time()
    spec = importlib.util.spec_from_file_location(
        "pack", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    taken = time.process_time() - before
ours = sum(name.split(".")[0] == "pack" for name in sys.modules)
print(json.dumps([taken, ours]))
"""


def test_the_pack_is_imported_in_a_third_of_a_second(host):
    """At the second time, where the first had to compile."""
    taken = []
    for _ in range(2):
        told = subprocess.run(
            [sys.executable, "-I", "-c", CODE, str(ROOT), str(host.path)],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, modules = json.loads(told.stdout.splitlines()[-1])
        assert modules > 40
        taken.append(seconds)
        if seconds <= MOST_SECONDS:
            break
    assert min(taken) <= MOST_SECONDS, taken
