"""Direct inversion: the source's row is restored to its trajectory at every step.

Ju et al. 2023 (PnP Inversion). The source comes out as it went in, whatever the guidance; edited
rows run free beside it, or share in what their source is moved by. Shared, guidance's drift is
taken off them as off the source, and an edit that changes nothing is the source.
"""

from __future__ import annotations

from dataclasses import replace

from . import ddim
from .task import Found, Task


def invert(task: Task, iterations: int = 0, *, shared: bool = False) -> Found:
    """Invert by DDIM for a source that is restored; `iterations` and errors as `ddim.invert`."""
    return replace(ddim.invert(task, iterations), restore_source=True, shared=shared)
