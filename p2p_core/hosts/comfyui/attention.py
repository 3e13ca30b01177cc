"""A run of the network under a controller.

A conditioning carries its edit; the wrappers look it up by the conditioning's uuid at every call of
the network, so neither the order of nodes nor the order of a batch's chunks matters, and nothing
outlives a run.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...background import SourceValues
from ...calls import CallEdits, Held, Look
from ...controller import Alone, Controller, Rows
from ...noise import SharedNoise
from ...schedules import progress
from .checking import Witness
from .compiling import uncompiled_if_unguarded
from .conditioning import PAYLOAD_KEY, Payload
from .families import Family, family_of
from .guarding import MODEL_CONDS, unguarded
from .known import cut, fits, may_relate_rows
from .texts import make_text, tokens_of_call

RUN_KEY = "p2p_run"
"""Our entry in transformer_options while a run lasts, and the key of our wrappers."""

KEPT_CALLS = 16
"""How many kinds of call a run remembers: windows make a handful, ramps one a step."""


class RunState:
    """One sampling run: its noise levels, and which conditionings carry edits or are looked at."""

    def __init__(
        self,
        sigmas: Sequence[float],
        payloads: dict[Any, Payload],
        size: torch.Size,
        noise: SharedNoise | None,
    ) -> None:
        self.sigmas = next((c.sigmas for c in payloads.values() if c.sigmas), tuple(sigmas))
        self.payloads = payloads
        self.size = size
        self.noise = noise
        self.known = next((c.known for c in payloads.values() if c.known), None)
        self.witness = Witness(any(c.continues for c in payloads.values()))
        self._calls: dict[Any, Any] = {}

    def _here(self, options: dict[str, Any]) -> float:
        """How far sampling has come at a call of the network, 0–1."""
        return progress(float(options["sigmas"][0]), self.sigmas)

    def tokens(self, options: dict[str, Any], texts: Tensor) -> Tensor:
        """Set a call's text tokens, float[rows tokens channels], to what they are at this step."""
        uuids = options["uuids"]
        here = self._here(options)
        chunk = texts.shape[0] // len(uuids)
        for n, name in enumerate(uuids):
            found = self.payloads[name].found if name in self.payloads else None
            now = found.null_embeddings_at(here) if found is not None else None
            if now is not None:
                now = now.to(texts)
                copies = (chunk // now.shape[0], texts.shape[1] // now.shape[1], 1)
                texts = texts.clone()
                texts[n * chunk : (n + 1) * chunk] = now.repeat(copies)
        return texts

    def held(self, options: dict[str, Any], x: Tensor, given: Sequence[Any]) -> Held | None:
        """Choose the rows of a call that run, where some need not; None for all of them.

        `given` is what else the network is given. Where another extension's patch may look from
        row to row, all run.
        """
        uuids = options["uuids"]
        known = self.known
        if known is None or not known.path.followed or x.shape[0] != len(uuids) * known.rows.total:
            return None
        if may_relate_rows(options, RUN_KEY) or not fits(given, x.shape[0]):
            return None
        here = self._here(options)
        needs = tuple(
            name in self.payloads and self.payloads[name].needs_source(here) for name in uuids
        )
        return None if all(needs) else Held.needed(known.rows, needs)

    def looks(self, options: dict[str, Any], x: Tensor, held: Held | None = None) -> list[Look]:
        """Collect the looks of one call; none of a call that sees a part of the image.

        x are the rows that go through the network, those of `held`.
        """
        if x.shape[-2:] != self.size:
            return []
        uuids = options["uuids"]
        here = self._here(options)
        return [
            Look(maps, *span, here)
            for name, span in zip(uuids, _spans(uuids, x, held), strict=True)
            if name in self.payloads
            for maps in self.payloads[name].maps
        ]

    def values(
        self, options: dict[str, Any], x: Tensor, held: Held | None = None
    ) -> SourceValues | None:
        """Find which rows of a call take whose values; none of a part of the image, as `looks`."""
        if x.shape[-2:] != self.size:
            return None
        uuids = options["uuids"]
        parts = list[tuple[Mapping[int, Tensor], Rows, int]]()
        for n, (name, (start, _)) in enumerate(zip(uuids, _spans(uuids, x, held), strict=True)):
            payload = self.payloads.get(name)
            if payload is not None and payload.rows is not None:
                parts.append((payload.values, held.rows[n] if held else payload.rows, start))
        return SourceValues.of(parts, x.shape[-2])

    def edits(
        self,
        family: Family,
        options: dict[str, Any],
        x: Tensor,
        tokens: int,
        held: Held | None = None,
    ) -> Any:
        """Prepare the edits of one call of the network, once for all calls that are alike.

        x are the rows that go through the network, those of `held`.
        """
        uuids = tuple(options["uuids"])
        self.witness.asked.update(uuids)
        here = self._here(options)
        editing = (self.payloads[n].controller for n in uuids if n in self.payloads)
        weights = tuple(c.weights(here) for c in editing if c is not None)
        key = (uuids, weights, x.shape, x.device, tokens, held)
        if key not in self._calls:
            if len(self._calls) >= KEPT_CALLS:
                self._calls.clear()
            parts = self._parts(uuids, x, held)
            self._calls[key] = family.prepared(CallEdits(parts, here, tokens), x)
        return self._calls[key]

    def _parts(
        self, uuids: Sequence[Any], x: Tensor, held: Held | None
    ) -> tuple[tuple[Controller, Rows, int], ...]:
        """Who edits a call with these conditionings, and from which row on; see `CallEdits`."""
        parts = list[tuple[Controller, Rows, int]]()
        for n, (name, (start, stop)) in enumerate(zip(uuids, _spans(uuids, x, held), strict=True)):
            if name not in self.payloads:
                continue
            controller, layout = self.payloads[name].controller, self.payloads[name].rows
            if controller is None:
                continue
            if layout is None:
                parts.append((controller, Alone.of(stop - start), start))
                continue
            if held is not None:
                parts.append((controller, held.rows[n], start))
                continue
            if stop - start != layout.total:
                raise ValueError(
                    f"Expected {layout.total} latent rows ({layout.sources} source(s) and "
                    f"{layout.edits} edit(s) of each), got {stop - start}. "
                    "Something splits or multiplies the rows while they are sampled: give tiled "
                    "diffusion a tile batch size of 1, and take context windows off the model."
                )
            parts.append((controller, layout, start))
        return tuple(parts)

    def filled(self, held: Held, result: Tensor, x: Tensor) -> Tensor:
        """Make a whole call's result of what the network made of its rows; x are all its latents.

        Sources are said to end where they do; of a part of the image, where they are.
        """
        assert self.known is not None
        end = self.known.path.end.to(result)
        sources = x[: self.known.rows.sources].to(result)
        return held.filled(result, end if end.shape == sources.shape else sources)

    def compare_start(self, options: dict[str, Any], x: Tensor) -> None:
        """Raises `ValueError` if the rows of a run's first call do not begin as their source."""
        for name, (start, stop) in zip(
            options["uuids"], _spans(options["uuids"], x, None), strict=True
        ):
            payload = self.payloads.get(name)
            if payload is None or payload.controller is None or payload.rows is None:
                continue
            if stop - start == payload.rows.total:
                self.witness.compare_start(x[start:stop], payload)


def _spans(uuids: Sequence[Any], x: Tensor, held: Held | None) -> Sequence[tuple[int, int]]:
    """The rows of each conditioning of a call: (first, beyond last)."""
    if held is not None:
        return held.spans
    chunk = x.shape[0] // len(uuids)
    return [(n * chunk, (n + 1) * chunk) for n in range(len(uuids))]


def attach(model: Any) -> Any:
    """Clone the model to one that obeys the controllers its conditionings carry.

    Raises `ValueError` for a network of no family that is known.
    """
    family = family_of(model)
    patched = uncompiled_if_unguarded(model.clone())
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, RUN_KEY, _start_run)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, RUN_KEY, _evaluate)

    def apply_model(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        c_crossattn: Any,
        control: Any,
        options: Any,
        **extra: Any,
    ) -> Any:
        run = options.get(RUN_KEY)
        with run.noise.left() if run is not None and run.noise is not None else nullcontext():
            if run is None or c_crossattn is None:
                return executor(x, t, c_concat, c_crossattn, control, options, **extra)
            run.compare_start(options, x)
            given = (t, c_concat, run.tokens(options, c_crossattn), control, extra)
            held, whole = run.held(options, x, given), x
            own = options  # with the conditionings of a whole call
            if held is not None:
                x, given = (cut(one, held, len(whole)) for one in (x, given))
                split = {name: held.blocks(options[name]) for name in ("uuids", "cond_or_uncond")}
                options = {**options, **split}
            t, c_concat, c_crossattn, control, extra = given
            tokens = tokens_of_call(c_crossattn, extra)
            prepared, looks = run.edits(family, own, x, tokens, held), run.looks(own, x, held)
            values = run.values(own, x, held)
            if prepared is not None or looks or values is not None:
                options = family.edited(options, prepared, looks, values, x.shape, tokens)
                extra = family.conditions(prepared, extra)
            result = executor(x, t, c_concat, c_crossattn, control, options, **extra)
            family.check(options)
            return result if held is None else run.filled(held, result, whole)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, RUN_KEY, apply_model)
    return patched


def _start_run(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    *rest: Any,
    **named: Any,
) -> Any:
    """SAMPLER_SAMPLE wrapper: make the run's state, and drop it however sampling ends.

    Raises `ValueError` if an edit was left out, see `Witness.check_edits`.
    """
    payloads: dict[Any, Payload] = {}
    for name in sorted(guider.conds, key=lambda name: name != "positive"):
        for conditioning in guider.conds[name]:
            if PAYLOAD_KEY in conditioning and conditioning["uuid"] not in payloads:
                payload = payloads[conditioning["uuid"]] = conditioning[PAYLOAD_KEY]
                conditioning[MODEL_CONDS] = unguarded(conditioning)[MODEL_CONDS]
                make_text(conditioning, guider.inner_model, payload.rows, noise.device)
            elif PAYLOAD_KEY in conditioning:
                # the host copied an area of the positive, uuid and all, to the negative
                conditioning["uuid"] = uuid.uuid4()
    options = extra_args["model_options"]["transformer_options"]
    conds = [cond for conds in guider.conds.values() for cond in conds]
    sources = {
        c.rows.sources for c in payloads.values() if c.controller is not None and c.rows is not None
    }
    widths = _widths(conds) | ({noise.shape[-1]} if noise.ndim > 4 else set())  # of videos
    shared = SharedNoise(len(noise), sources.pop(), widths) if len(sources) == 1 else None
    run = options[RUN_KEY] = RunState(sigmas.tolist(), payloads, noise.shape[-2:], shared)
    try:
        with shared or nullcontext():
            result = executor(guider, sigmas, extra_args, callback, noise, *rest, **named)
    except ValueError:  # it may be what follows from an edit that was left out
        run.witness.check_edits(conds, payloads, run.sigmas)
        raise
    else:
        run.witness.check_edits(conds, payloads, run.sigmas)
        return result
    finally:
        del options[RUN_KEY]


def _widths(conds: Sequence[dict[str, Any]]) -> set[int]:
    """Channels of what conditionings bring with one row for each of the batch's: texts, pooled."""
    brought = [getattr(c, "cond", None) for cond in conds for c in cond["model_conds"].values()]
    return {b.shape[-1] for b in brought if isinstance(b, Tensor) and b.ndim in (2, 3)}


def _evaluate(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, *rest: Any, **named: Any
) -> Any:
    """PREDICT_NOISE wrapper: note what the sampler evaluated, once it is done."""
    result = executor(x, timestep, model_options or {}, *rest, **named)
    run = ((model_options or {}).get("transformer_options") or {}).get(RUN_KEY)
    if run is not None:
        run.witness.evaluated.append(timestep.flatten()[0])
    return result
