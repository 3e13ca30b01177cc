"""What a worker does, in a process of its own: one model, one job after the other."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from threading import RLock
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .job import Job
from .places import write_folder
from .pool import Outcome

if TYPE_CHECKING:
    from .studio import Studio


def begin(numbers: Any) -> None:
    """Take the next accelerator of this machine, `numbers` counting the workers that have begun.

    Bars of progress get a lock of this process alone: tqdm's own is a semaphore of the system,
    which a worker that is killed would leave behind.
    """
    import torch

    tqdm.set_lock(RLock())

    accelerators = torch.cuda.device_count()
    if accelerators > 1:
        with numbers.get_lock():
            torch.cuda.set_device(numbers.value % accelerators)
            numbers.value += 1


def carry_out(job: Job, threads: int) -> Outcome:
    """Make a job's pictures with so many threads, and write them; errors are told."""
    begun, start = time.time(), time.perf_counter()

    def outcome(error: Exception | None = None, **more: bool) -> Outcome:
        told = None if error is None else str(error) or type(error).__name__
        return Outcome(begun, time.perf_counter() - start, os.getpid(), told, **more)

    try:
        studio = _studio(job.model, job.half, threads)
    except Exception as error:
        return outcome(error, fatal=True)
    try:
        write_folder(job.folder, *job.work.make(studio))
    except ValueError as error:
        return outcome(error, permanent=True)
    except OSError as error:
        return outcome(error, fatal=True)
    except Exception as error:
        return outcome(error)
    return outcome()


@lru_cache(maxsize=1)
def _studio(model: str, half: bool, threads: int) -> Studio:
    import torch

    from .studio import Studio

    torch.set_num_threads(threads)
    return Studio.open(model, half, quiet=True)
