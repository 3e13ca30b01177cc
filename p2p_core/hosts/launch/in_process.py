"""Make a ComfyUI importable in this process, as its own start-up would."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from .locate import Host
from .server import bytecode_folder, has_accelerator


def enter_host(host: Host, base: Path) -> None:
    """Put `host` first on `sys.path` and give it the arguments that a server of ours gets.

    `base` is the folder for what the host writes. Two hosts cannot live in one process.
    """
    sys.pycache_prefix = str(bytecode_folder())
    sys.path.insert(0, str(host.path))
    # comfy.cli_args parses no command line unless it is told to: these are its defaults.
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.base_directory = str(base)
    arguments.cpu = arguments.use_pytorch_cross_attention = not has_accelerator()
    # Before anything puts comfy/, with a utils.py in it, on sys.path.
    importlib.import_module("utils.install_util")
