"""The registry's archive: all of the code that nodes import, and none that they do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from archive import ROOT, archived

NEVER = {"subprocess", "socket", "urllib", "http", "requests", "ftplib"}
"""What only programs that start and ask others need."""


def test_the_archive_holds_what_nodes_import_and_no_other_code():
    packed = {path for path in archived() if path.suffix == ".py"}
    assert packed == imported_from(Path("__init__.py"))


def test_the_archive_starts_no_program_and_asks_no_server():
    found = {
        f"{path}: {name}"
        for path in archived()
        if path.suffix == ".py"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in names_of(node)
        if name.split(".")[0] in NEVER
    }
    assert found == set()


def imported_from(start: Path) -> set[Path]:
    """The pack's files that this one imports, itself or through others, sooner or later."""
    found: set[Path] = set()
    left = [start]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        modules = [*relative_imports(path), *path.parents]
        left += [file for module in modules for file in files_of(module)]
    return found


def relative_imports(path: Path) -> Iterator[Path]:
    """Modules, and names that may be modules, but for those of type checkers alone."""
    tree = parse(path)
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in checked:
            module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            yield module
            yield from (module / alias.name for alias in node.names)


def files_of(module: Path) -> Iterator[Path]:
    for file in (Path(f"{module}.py"), module / "__init__.py"):
        if (ROOT / file).is_file():
            yield file


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [] if node.level else [node.module or ""]
