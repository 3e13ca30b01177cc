"""The command line `p2p`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        from .app import main as run
    except ImportError as error:
        sys.stderr.write(
            f"Expected what p2p needs to be installed, but {error.name} is not. "
            "Run: pip install 'prompt-to-prompt[headless]'\n"
        )
        return 1
    return run()
