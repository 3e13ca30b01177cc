"""Direct inversion: the source's row is restored to its trajectory at every step.

Ju et al. 2023 (PnP Inversion). The source comes out as it went in, whatever the guidance; edited
rows run free beside it, or share in what their source is moved by. Shared, guidance's drift is
taken off them as off the source, and an edit that changes nothing is the source.

With the residual kept (DirectEdit, 2026) the network is asked not about a row but about the row
plus the distance from the source's path to where the walk asked for it. Of the source it then sees
what the walk saw, and its step is the walk's own backwards, without an evaluation more. The
negative text being the source's, guidance leaves it there, and an edit that changes nothing is the
source although it runs free: what a source that is known need not be evaluated for.
"""

from __future__ import annotations

from dataclasses import replace

from . import ddim
from .task import Found, Task


def invert(task: Task, iterations: int = 0, *, shared: bool = False) -> Found:
    """Invert by DDIM for a source that is restored; `iterations` and errors as `ddim.invert`."""
    return replace(ddim.invert(task, iterations), restore_source=True, shared=shared)


def invert_with_residual(task: Task, iterations: int = 0) -> Found:
    """Invert by DDIM and keep where the network was asked; errors as `ddim.invert`."""
    levels, asked = ddim.walk(task, iterations)
    return Found(levels, restore_source=True, source_as_negative=True, residual=asked - levels[:-1])
