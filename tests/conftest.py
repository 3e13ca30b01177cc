"""The ComfyUI under test, the pack loaded in it, and a server of it.

`tests/unit` needs no host. `tests/host`, `tests/server` and `tests/browser` test against one
ComfyUI a process, because two cannot live in one: that of `$P2P_HOST`, else the newest to be found;
`tests/run.py` (`make test`) runs them once for each. Without any they are skipped one by one, or
fail where `P2P_REQUIRE_HOST=1`.

Before the first of their modules is imported, the host's folder goes to the front of `sys.path`, so
a test in `tests/host` imports `comfy` or `nodes` like any module. The pack's root must not stand
before it: its `nodes` folder would hide the host's `nodes.py`.

There is one `p2p_core` in a test process. The pack imports its own relatively, under a name such as
`prompt_to_prompt_pack.p2p_core.edits`; a test writes `p2p_core.edits`. Left alone, these would be
two modules with two classes of each name. The `pack` fixture makes the first name stand for the
second's module, and checks that the pack indeed imports relatively, as a user's host has no
`p2p_core` on its path.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from p2p_core.hosts.launch.in_process import enter_host
from p2p_core.hosts.launch.locate import Host, HostNotFound, find_hosts, read_host
from p2p_core.hosts.launch.server import Server

ROOT = Path(__file__).resolve().parents[1]
HOST_TIERS = ("host", "server", "browser")
PACK = "prompt_to_prompt_pack"
HOST_KEY = pytest.StashKey[Host]()


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    """The ComfyUI under test."""
    return request.config.stash[HOST_KEY]


@pytest.fixture(scope="session")
def pack(host: Host) -> ModuleType:
    """The pack's root module, loaded into this process as the host loads it."""
    assert _absolute_imports() == [], "the pack must import p2p_core relatively"
    sys.meta_path.insert(0, _OneCore())
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def changes_in_host(host: Host) -> Callable[[], list[str]]:
    """A function that names what was written into the host's folder since the session began."""
    before = _list_files(host.path)
    return lambda: sorted(f"{path}" for path, _ in before.items() ^ _list_files(host.path).items())


@pytest.fixture(scope="session")
def server(host: Host, changes_in_host: Callable[[], list[str]]) -> Iterator[Server]:
    """The ComfyUI under test, running as a server with the pack in it."""
    with Server(host) as running:
        yield running


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    """Make the host importable before a module that may import it is; without a host, skip it."""
    if _tier(module_path) not in HOST_TIERS:
        return None
    try:
        _enter_host(parent.config)
    except HostNotFound as error:
        return _Hostless.from_parent(parent, path=module_path, reason=str(error))
    return None


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark every test that needs a host with its tier."""
    for item in items:
        if (tier := _tier(item.path)) in HOST_TIERS:
            item.add_marker(tier)


def _tier(path: Path) -> str:
    return path.relative_to(ROOT / "tests").parts[0]


def _enter_host(config: pytest.Config) -> None:
    if HOST_KEY in config.stash:
        return
    named = os.environ.get("P2P_HOST")
    host = read_host(Path(named)) if named else find_hosts()[0]
    if host is None:
        raise pytest.UsageError(f"P2P_HOST: expected the folder of a ComfyUI, got {named!r}")
    config.stash[HOST_KEY] = host

    base = tempfile.TemporaryDirectory(prefix="p2p-host-")
    config.add_cleanup(base.cleanup)
    enter_host(host, Path(base.name))


def _list_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change by path; not of byte code and git's files, which anyone may write."""
    files: dict[str, tuple[int, int]] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        for path in (Path(parent, name) for name in names):
            status = path.lstat()
            files[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return files


def _absolute_imports() -> list[str]:
    files = [ROOT / "__init__.py", *ROOT.glob("nodes/**/*.py"), *ROOT.glob("p2p_core/**/*.py")]
    found: list[str] = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            if any(name.split(".")[0] == "p2p_core" for name in names):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return found


class _OneCore(MetaPathFinder, Loader):
    """Gives the module `p2p_core.x` to whoever imports the pack's `p2p_core.x`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == f"{PACK}.p2p_core" or fullname.startswith(f"{PACK}.p2p_core."):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(f"{PACK}."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system put ours there


class _Hostless(pytest.File):
    """A test module whose tests need a host, where there is none: read, but not imported."""

    def __init__(self, *, reason: str, **rest: object) -> None:
        super().__init__(**rest)
        self.reason = reason

    def collect(self) -> Iterator[pytest.Item]:
        for node in ast.walk(ast.parse(self.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                node.name.startswith("test")
            ):
                yield _HostlessTest.from_parent(self, name=node.name)


class _HostlessTest(pytest.Item):
    parent: _Hostless

    def runtest(self) -> None:
        if os.environ.get("P2P_REQUIRE_HOST") == "1":
            pytest.fail(self.parent.reason, pytrace=False)
        pytest.skip(self.parent.reason)
