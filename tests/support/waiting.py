"""Waiting for what another process or thread is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from p2p_core.hosts.launch.server import Server

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], expected: str, *, seconds: float = 600, every: float = 0.05
) -> T:
    """Ask again and again until a condition holds; returns what it then said.

    Fails with what was `expected` after `seconds`; `every` is the pause between two questions, in
    seconds, and no part of what is waited for.
    """
    deadline = time.monotonic() + seconds
    while not (said := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Expected within {seconds:g} s: {expected}.")
        time.sleep(every)
    return said


def interrupted(server: Server, identity: str) -> dict[str, Any]:
    """Interrupt a queued prompt until it has ended; returns its entry in the history."""

    def ended() -> dict[str, Any] | None:
        server.interrupt()
        return server.get(f"/history/{identity}").get(identity)

    entry = wait_until(ended, "a run that is interrupted", every=0.2)
    assert entry is not None
    return entry
