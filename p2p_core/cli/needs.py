"""What commands need: packages, and an end that leaves things in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def require_diffusers() -> None:
    """Raises `ValueError` where it is not installed."""
    try:
        for name in ("diffusers", "filelock", "pebble", "torchmetrics"):
            import_module(name)
    except ImportError as error:
        raise ValueError(
            f"Expected {error.name} to be installed, but it is not. "
            "Run: pip install 'prompt-to-prompt[headless]'"
        ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """While it lasts, being asked to end, by a key or a signal, ends the command with a word."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. What is done stays; the same command goes on from there.\n")
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
