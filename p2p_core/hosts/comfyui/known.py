"""Known sources in ComfyUI: their rows run only where an edit or a look needs their attention.

A source that is set to its path before every evaluation needs nothing that the network makes of it.
What a call holds is cut where it comes to the network and filled up where it comes back, so that
samplers, guidance, masks and ControlNets see whole batches. Each block of rows that is left counts
as a conditioning of its own, as whoever splits a call by `cond_or_uncond` wants equal parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor

from ...calls import Held
from ...controller import Rows
from ...inversion.path import Path
from .families.override import OVERRIDE

BETWEEN_LEVELS = frozenset(
    (
        "dpm_2",
        "dpm_2_ancestral",
        "dpm_fast",
        "dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral_cfg_pp",
        "dpmpp_sde",
        "dpmpp_sde_gpu",
        "exp_heun_2_x0",
        "exp_heun_2_x0_sde",
        "seeds_2",
        "seeds_3",
    )
)
"""The host's samplers that also evaluate off the schedule, where an inversion has no latents."""

ADAPTIVE = frozenset(("dpm_adaptive",))
"""Those whose evaluations depend on all rows, so that a source alone has others."""


@dataclass(frozen=True)
class Known:
    """The sources of a run that are on a path, and the rows of the batch that they are in."""

    path: Path
    rows: Rows


def known(path: Path | None, rows: Rows, sampler: str, samplers: list[str]) -> Known | None:
    """Tell whether a run's sources are known: None where their rows have to run.

    Edits that are moved alongside need what the network makes of their source, and so does a
    `sampler` that goes where the path has no latents; one that is none of the host's `samplers`
    may do anything.
    """
    if path is None or path.found.shared or not rows.edits or sampler not in samplers:
        return None
    off = ADAPTIVE if path.found.levels is not None else ADAPTIVE | BETWEEN_LEVELS
    return None if sampler in off else Known(path, rows)


def may_relate_rows(options: Mapping[str, Any], key: str) -> bool:
    """Tell whether another extension's patch of the network may look from row to row.

    `key` is that of our own wrappers.
    """
    wrappers = options.get("wrappers", {})
    theirs = any(
        some and name not in (key, COMPILE_KEY)
        for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
        for name, some in wrappers.get(kind, {}).items()
    )
    patches = (*options.get("patches", {}).values(), *options.get("patches_replace", {}).values())
    return theirs or OVERRIDE in options or any(patches)


def cut(value: Any, held: Held, rows: int) -> Any:
    """Cut to the rows that a call holds whatever has all `rows` of a whole call; lists one by one.

    Nothing else is changed.
    """
    if isinstance(value, Tensor):
        return held.cut(value) if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {name: cut(one, held, rows) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(cut(one, held, rows) for one in value)
    return value


def fits(value: Any, rows: int) -> bool:
    """Tell whether tensors have all of a call's rows, or one for whatever rows there are."""
    return all(one.ndim == 0 or one.shape[0] in (1, rows) for one in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
