"""What must be installed."""

from __future__ import annotations

from importlib import import_module


def require_diffusers() -> None:
    """Raises `ValueError` where it is not installed."""
    try:
        for name in ("diffusers", "torchmetrics", "pebble"):
            import_module(name)
    except ImportError as error:
        raise ValueError(
            f"Expected {error.name} to be installed, but it is not. "
            "Run: pip install 'prompt-to-prompt[headless]'"
        ) from error
