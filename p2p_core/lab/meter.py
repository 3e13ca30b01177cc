"""Peak memory and time of a piece of work, and their ratio between two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm


def peak_memory(work: Callable[[], object]) -> int:
    """Measure the bytes of tensors that `work` held at its peak, above what was held before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    recorder: Any = profiler.profiler  # torch's types leave out an event's nbytes
    changes = [
        (event.start_ns(), event.nbytes())
        for event in recorder.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        held += nbytes
        peak = max(peak, held)
    return peak


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """Count the rows that go through a network, call by call, while the context lasts."""
    rows: list[int] = []

    def count(_: torch.nn.Module, given: tuple[Any, ...]) -> None:
        rows.append(len(given[0]))

    hook = network.register_forward_pre_hook(count)
    try:
        yield rows
    finally:
        hook.remove()


def seconds(work: Callable[[], object]) -> float:
    """Measure the wall time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Comparison:
    """What our run costs against the stock run's, stock = 1."""

    time_ratio: float
    memory_ratio: float
    seconds: float
    stock_seconds: float
    repeats: int


def compare(
    name: str, ours: Callable[[], object], stock: Callable[[], object], repeats: int
) -> Comparison:
    """Alternate the two and take the median of the pairs' ratios.

    Which goes first changes every time.
    """
    stock()
    ours()
    pairs: list[tuple[float, float]] = []
    for n in tqdm(range(repeats), desc=name, unit="pair"):
        order = (ours, stock) if n % 2 else (stock, ours)
        taken = {work: seconds(work) for work in order}
        pairs.append((taken[ours], taken[stock]))
    return Comparison(
        time_ratio=median(mine / theirs for mine, theirs in pairs),
        memory_ratio=peak_memory(ours) / peak_memory(stock),
        seconds=median(mine for mine, _ in pairs),
        stock_seconds=median(theirs for _, theirs in pairs),
        repeats=repeats,
    )
