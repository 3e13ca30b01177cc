"""How long the canvas waits for what it shows of a prompt: its words, and what edits change.

From a question over HTTP to the whole answer, read, by a server of its own; every question is of
another prompt, as while someone writes, so nothing is answered from memory. Drawing comes on top.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

from ...hosts.launch.locate import find_hosts
from ...hosts.launch.server import Server
from ..meter import seconds

TOKENS = 75
"""Words of a prompt, each a token: what a text encoder of 77 has room for."""

Question = Mapping[str, Any]


def frontend(repeats: int) -> dict[str, Any]:
    """Measure both answers of the newest ComfyUI, in milliseconds, the median of `repeats`."""
    with Server(find_hosts()[0]) as server:
        return {"frontend": answers(server.url, repeats)}


def answers(url: str, repeats: int) -> dict[str, float]:
    """Measure the answers of a running server."""
    asked: dict[str, Callable[[int], Question]] = {"chips_ms": chips, "diff_ms": diff}
    told: dict[str, float] = {}
    for name, question in asked.items():
        ask(url, question(repeats))  # what is loaded once
        taken = [seconds(partial(ask, url, question(n))) for n in range(repeats)]
        told[name] = 1000 * median(taken)
    return told


def chips(number: int) -> Question:
    """Ask for the words of a prompt that no other number has."""
    return {"source": prompt(number)}


def diff(number: int) -> Question:
    """Ask, too, what a swap and a refinement with another word in every tenth place change."""
    words = prompt(number).split()
    refined = " ".join(f"new {word}" if n % 10 == 5 else word for n, word in enumerate(words))
    swap = {"type": "P2P_WordSwap", "inputs": {"words": words[3], "replacement": "other"}}
    refine = {"type": "P2P_Refine", "inputs": {"edited_prompt": refined}}
    return {"source": prompt(number), "chains": [[swap], [refine]]}


def prompt(number: int) -> str:
    """Write a prompt of `TOKENS` words that no other number has."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    first = [letters[number // 26**place % 26] for place in range(5)]
    rest = [letters[n // 26] + letters[n % 26] for n in range(TOKENS - len(first))]
    return " ".join([*first, *rest])


def ask(url: str, question: Question) -> Any:
    """Put a question to the route as the canvas does; gives its answer."""
    request = urllib.request.Request(
        f"{url}/p2p/align",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
