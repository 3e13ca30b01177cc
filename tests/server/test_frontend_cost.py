"""The benchmark of what the canvas waits for asks the route what it says that it asks."""

from __future__ import annotations

from p2p_core.hosts.launch.server import Server
from p2p_core.lab.cost.frontend import TOKENS, answers, ask, chips, diff


def test_questions_are_of_75_tokens_and_their_edits_are_right(server: Server) -> None:
    told = ask(server.url, chips(0))
    assert len(told["words"]) == TOKENS == 75
    assert chips(0) != chips(1)
    told = ask(server.url, diff(7))
    swap, refine = told["chains"]
    assert not swap["mistakes"] + refine["mistakes"] + told["mistakes"]
    assert [span["kind"] for span in swap["spans"]].count("swapped") == 1
    assert [span["kind"] for span in refine["spans"]].count("inserted") == 7


def test_both_answers_are_timed(server: Server) -> None:
    told = answers(server.url, 2)
    assert set(told) == {"chips_ms", "diff_ms"}
    assert all(0 < value < 60_000 for value in told.values())
