"""The kinds of workers that there are."""

from __future__ import annotations

from .pool import Pool


def workers_of(count: int, ray: str | None) -> Pool:
    """Processes of this machine, or of a Ray cluster at an address.

    Raises `ValueError` where there is no such cluster.
    """
    if ray is None:
        from .local import LocalWorkers

        return LocalWorkers(count)
    from .cluster import RayWorkers

    return RayWorkers(count, ray)
