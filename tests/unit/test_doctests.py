"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = sorted(
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for file in ROOT.glob("p2p_core/**/*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)
"""Every module that has some; what imports a host or trains has none, or it would fail here."""


def test_modules_have_examples():
    assert {f"p2p_core.{name}" for name in ("alignment", "controller", "notation", "tokens")} <= {
        *WITH_EXAMPLES
    }


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
