"""Needleman–Wunsch: which items of two sequences correspond, words or tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def matching(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Match equal items of two sequences, in order: pairs of their indices.

    As the authors' code has it: gap 0, match 1, mismatch −1; ties go to a gap in `a`, then to one
    in `b`. A mismatch never wins, so only equal items are paired. A row of scores is made at once:
    what comes from its left is a running maximum, as gaps cost nothing.

    >>> matching("a cat".split(), "a big cat".split())
    [(0, 0), (1, 2)]
    """
    numbers: dict[Hashable, int] = {}
    x, y = (
        np.array([numbers.setdefault(item, len(numbers)) for item in items], dtype=np.int64)
        for items in (a, b)
    )
    score = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int32)
    for i, item in enumerate(x, 1):
        diagonal = score[i - 1, :-1] + np.where(y == item, 1, -1)
        score[i, 1:] = np.maximum.accumulate(np.maximum(score[i - 1, 1:], diagonal))
    pairs: list[tuple[int, int]] = []
    i, j = len(a), len(b)
    while i and j:
        if score[i, j] == score[i, j - 1]:
            j -= 1
        elif score[i, j] == score[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
