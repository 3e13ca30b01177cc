"""Which room may import which (docs of the tree: README, For developers).

Imports run one way: nodes and cli -> lab -> jobs -> hosts -> core; type-only and lazy ones count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROOMS = ("core", "hosts", "jobs", "lab", "top")
"""Lowest first: a room imports itself and those before it."""

TRAINING = (
    "p2p_core.demo.networks",
    "p2p_core.demo.joint_networks",
    "p2p_core.demo.training",
)
"""The demo models are trained with diffusers' classes."""

HOST_PACKAGES = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "diffusers",
    "execution",
    "folder_paths",
    "latent_preview",
    "server",
    "transformers",
}


def modules() -> dict[str, Path]:
    """Every module of the pack by its dotted name."""
    files = [*ROOT.glob("p2p_core/**/*.py"), *ROOT.glob("nodes/*.py")]
    names = {file: file.relative_to(ROOT).with_suffix("").as_posix() for file in files}
    return {name.removesuffix("/__init__").replace("/", "."): file for file, name in names.items()}


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Modules of the pack that a module imports, wherever in it and whatever for."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{target}.{alias.name}".lstrip(".")
                found = inner if inner in MODULES else target
                if found in MODULES and found != name:
                    yield found


GRAPH = {name: set(imports(name)) for name in MODULES}


def room(name: str) -> str:
    """The room that a module lives in."""
    parts = name.split(".")
    if parts[0] == "nodes" or parts[:2] == ["p2p_core", "cli"]:
        return "top"
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "core"


def folder(name: str) -> str:
    return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def test_no_import_runs_up():
    upward = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not upward


def test_no_circle_of_files():
    without_packages = {
        name: {other for other in others if not other.startswith(f"{name}.")}
        for name, others in GRAPH.items()
    }
    assert_no_circle(without_packages)


def test_no_circle_of_folders():
    """Between a folder and one inside it there is no arrow: the one holds the other."""
    folders: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        here = folder(name)
        folders.setdefault(here, set()).update(
            there
            for there in map(folder, others)
            if not f"{here}.".startswith(f"{there}.") and not f"{there}.".startswith(f"{here}.")
        )
    assert_no_circle(folders)


def test_the_two_hosts_never_meet():
    comfyui, diffusers = "p2p_core.hosts.comfyui", "p2p_core.hosts.diffusers"
    meetings = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if {name.startswith(comfyui), name.startswith(diffusers)} == {True, False}
        and (other.startswith(comfyui) or other.startswith(diffusers))
        and name.startswith(comfyui) != other.startswith(comfyui)
    ]
    assert not meetings


def test_the_lab_is_known_to_the_benchmark_command_alone():
    knowing = {
        name for name, others in GRAPH.items() for other in others if room(other) == "lab"
    } - {name for name in MODULES if room(name) == "lab"}
    assert knowing <= {"p2p_core.cli.benchmarks"}


CORE = sorted(name for name in MODULES if room(name) == "core" and not name.startswith(TRAINING))


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_host(name):
    found = {
        top
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        for top in (
            [alias.name.split(".")[0] for alias in node.names]
            if isinstance(node, ast.Import)
            else [(node.module or "").split(".")[0]]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert not found & HOST_PACKAGES


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " -> ".join(error.args[1]))
