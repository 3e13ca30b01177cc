"""The method inside ComfyUI.

    paper                      here
    source / edited prompt     rows of one positive conditioning, sources first (`controller.Rows`)
    M, cross-attention map     attn2 of a UNet's transformer blocks; self-attention is attn1
    t, step                    sigmas[0] against sample_sigmas (`schedules.progress`)
    Edit(M, M*, t)             patches put into transformer_options for one call, by an APPLY_MODEL wrapper

A conditioning carries its edit; the wrappers look it up by the conditioning's uuid at every call of the network, so
neither the order of nodes nor the order of a batch's chunks matters, and nothing outlives a run.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..attention import Attend, CrossEdit, RowEdit
from ..attention_maps import MapSum, word_map
from ..controller import Chain, Controller, Rows, plan
from ..schedules import progress
from ..tokens import Prompt, read_prompt

KEY = "p2p_controller"
"""Our entry in a conditioning's dict, in transformer_options and in the model's wrappers."""

VIEW_KEY = "p2p_viewer"

Conditioning = list[list[Any]]


# --- prompts ---------------------------------------------------------------------------------------------------------


def read(clip: Any, text: str) -> Prompt:
    """The words of `text` and their tokens, as this CLIP sees them: weights, brackets and 75-token chunks included."""
    chunks = next(iter(clip.tokenize(text, return_word_ids=True).values()))
    flat = [entry for chunk in chunks for entry in chunk]
    own = [i for i, entry in enumerate(flat) if entry[2] != 0]
    return read_prompt(
        text,
        content=[_token_key(flat[i][0]) for i in own],
        positions=own,
        length=len(flat),
        tokenise=lambda piece: _tokens_alone(clip, piece),
    )


def _tokens_alone(clip: Any, piece: str) -> list[Any]:
    escaped = piece.replace("(", "\\(").replace(")", "\\)")
    chunks = next(iter(clip.tokenize(escaped, return_word_ids=True).values()))
    return [_token_key(entry[0]) for chunk in chunks for entry in chunk if entry[2] != 0]


def _token_key(token: Any) -> Any:
    return id(token) if isinstance(token, Tensor) else token  # a textual-inversion vector has no number


# --- controllers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedController:
    """A controller and its prompts' conditioning: one row for the source, then one for every branch."""

    controller: Controller
    conditioning: Conditioning


def build_controller(clip: Any, source_prompt: str, chains: Sequence[Chain]) -> EncodedController:
    """Resolve the chains and encode every prompt. Raises `ValueError` as `controller.plan` does."""
    if clip is None:
        raise ValueError("Expected a CLIP, got none: the checkpoint has no text encoder. Load one with a CLIP loader.")
    controller = plan(source_prompt, chains, lambda text: read(clip, text))
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt.text)) for prompt in controller.prompts]
    return EncodedController(controller, [_stack(list(entries), controller.length) for entries in zip(*encoded, strict=True)])


def _stack(entries: list[list[Any]], length: int) -> list[Any]:
    """Entries of one row each → one entry of as many rows; texts repeated to `length` tokens as the host does."""
    cond = torch.cat([entry[0].repeat(1, length // entry[0].shape[1], 1) for entry in entries])
    extra = dict(entries[0][1])
    for key, value in extra.items():
        if isinstance(value, Tensor) and value.ndim and all(entry[1][key].shape == value.shape for entry in entries):
            extra[key] = torch.cat([entry[1][key] for entry in entries])
    return [cond, extra]


def _batched(conditioning: Conditioning, rows: Rows, controller: Controller) -> Conditioning:
    """One conditioning row per prompt → one per row of the batch, carrying its controller."""
    prompts = 1 + rows.edits
    batched: Conditioning = []
    for cond, extra in conditioning:
        repeated = {
            key: value.repeat_interleave(rows.sources, 0)
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == prompts
            else value
            for key, value in extra.items()
        }
        batched.append([cond.repeat_interleave(rows.sources, 0), {**repeated, KEY: (controller, rows)}])
    return batched


def _matched(conditioning: Conditioning, rows: Rows, name: str) -> Conditioning:
    """A conditioning of one row or of one a source, for all rows of the batch. Raises `ValueError` for other counts."""
    matched: Conditioning = []
    for cond, extra in conditioning:
        if cond.shape[0] not in (1, rows.sources):
            raise ValueError(
                f"Expected a {name} conditioning of 1 row or of {rows.sources} (one for each latent), "
                f"got {cond.shape[0]}. Encode one {name} prompt, or as many as the latent batch has images."
            )
        blocks = 1 if cond.shape[0] == 1 else 1 + rows.edits
        repeated = {
            key: value.repeat(blocks, *[1] * (value.ndim - 1))
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == cond.shape[0]
            else value
            for key, value in extra.items()
        }
        matched.append([cond.repeat(blocks, 1, 1), repeated])
    return matched


# --- the network -----------------------------------------------------------------------------------------------------


def cross_attention_blocks(model: Any) -> list[tuple[str, int, int]]:
    """Names of a UNet's transformer blocks, as the host's attention replacements name them.

    Raises `ValueError` for a network that has none.
    """
    network = model.model.diffusion_model
    parts = (("input", "input_blocks"), ("middle", "middle_block"), ("output", "output_blocks"))
    blocks: list[tuple[str, int, int]] = []
    for name, attribute in parts:
        modules = getattr(network, attribute, None) or []
        for number, module in enumerate([modules] if name == "middle" else modules):
            for layer in module:
                if isinstance(layer, SpatialTransformer):
                    blocks += [(name, number, depth) for depth in range(len(layer.transformer_blocks))]
    if not blocks:
        raise ValueError(
            f"Expected a model whose UNet has cross-attention (SD1.x, SD2.x, SDXL), got {type(network).__name__}. "
            "Prompt-to-Prompt edits the attention between image and text; load such a checkpoint."
        )
    return blocks


class Run:
    """One sampling run: its noise levels, and which conditionings carry a controller."""

    def __init__(self, sigmas: Sequence[float], carried: dict[Any, tuple[Controller, Rows]]) -> None:
        self.sigmas = sigmas
        self.carried = carried

    def edits(self, uuids: Sequence[Any], rows: int, sigma: float, tokens: int) -> Iterator[tuple[RowEdit, float]]:
        """Row edits and self-attention reaches for one call of the network with these conditionings, in this order."""
        chunk = rows // len(uuids)
        for n, name in enumerate(uuids):
            if name not in self.carried:
                continue
            controller, layout = self.carried[name]
            if chunk != layout.total:
                raise ValueError(
                    f"Expected {layout.total} latent rows ({layout.sources} source(s) and {layout.edits} edit(s) of "
                    f"each), got {chunk}. Sample with the P2P KSampler: it makes the rows that the controller needs."
                )
            for branch, moment in enumerate(controller.at(progress(sigma, self.sigmas), tokens)):
                for row, source in layout.pairs(branch):
                    yield RowEdit(n * chunk + row, n * chunk + source, moment.pair), moment.self_reach


def attach(model: Any) -> Any:
    """A clone of the model that obeys the controllers its conditionings carry. Raises `ValueError`, see
    `cross_attention_blocks`."""
    blocks = cross_attention_blocks(model)
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _start_run)

    def apply_model(
        executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: Any, **extra: Any
    ) -> Any:
        run = options.get(KEY)
        if run is not None and c_crossattn is not None:
            options = _with_edits(options, run, blocks, x, c_crossattn.shape[1])
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
    return patched


def _start_run(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, *rest: Any, **named: Any
) -> Any:
    """SAMPLER_SAMPLE wrapper: make the run's state, and drop it when sampling ends, however it ends."""
    carried: dict[Any, tuple[Controller, Rows]] = {}
    for name in sorted(guider.conds, key=lambda name: name != "positive"):
        for conditioning in guider.conds[name]:
            if KEY in conditioning and conditioning["uuid"] not in carried:
                carried[conditioning["uuid"]] = conditioning[KEY]
            elif KEY in conditioning:  # the host copied an area of the positive, uuid and all, to the negative
                conditioning["uuid"] = uuid.uuid4()
    options = extra_args["model_options"]["transformer_options"]
    options[KEY] = Run(sigmas.tolist(), carried)
    sources = {rows.sources for _, rows in carried.values()}
    try:
        with _shared_noise(executor.class_obj, noise, sources.pop()) if len(sources) == 1 else nullcontext():
            return executor(guider, sigmas, extra_args, callback, noise, *rest, **named)
    finally:
        del options[KEY]


def _with_edits(
    options: dict[str, Any], run: Run, blocks: Sequence[tuple[str, int, int]], x: Tensor, tokens: int
) -> dict[str, Any]:
    """transformer_options for one call, with this moment's edits in them; the given ones where nothing is edited."""
    edits = list(run.edits(options["uuids"], x.shape[0], float(options["sigmas"][0]), tokens))
    cross = CrossEdit.of([edit for edit, _ in edits], x.shape[0], x.device)
    injected = [(edit.row, edit.source, reach) for edit, reach in edits if reach]
    if cross is None and not injected:
        return options
    options = {**options}
    if cross is not None:
        replace = {**options.get("patches_replace", {})}
        theirs = replace.get("attn2", {})
        replace["attn2"] = theirs | {
            block: _cross_attention(cross, theirs.get(block, theirs.get(block[:2]))) for block in blocks
        }
        options["patches_replace"] = replace
    if injected:
        patches = {**options.get("patches", {})}
        patches["attn1_patch"] = [_self_attention(injected, x), *patches.get("attn1_patch", [])]
        options["patches"] = patches
    return options


def _cross_attention(cross: CrossEdit, theirs: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """attn2 replacement: the edit, on top of another extension's replacement if there is one."""

    def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        attention = _attention(extra)
        if theirs is None:
            return cross.attend(attention, q, k, v)
        return cross.adjust(theirs(q, k, v, extra), attention, q, k, v)

    return attn2


def _attention(extra: dict[str, Any]) -> Attend:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(
            q, k, v, heads=extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
        )

    return attention


def _self_attention(injected: Sequence[tuple[int, int, float]], x: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """attn1 patch: edited rows take the source row's queries and keys and keep their own values.

    It comes before other extensions' patches, so that those that shorten the sequence shorten all rows alike.
    """
    latent = x.shape[-2] * x.shape[-1]
    by_size: dict[int, Tensor | None] = {}

    def gather(pixels: int) -> Tensor | None:
        side = (pixels / latent) ** 0.5
        chosen = [(row, source) for row, source, reach in injected if side <= reach + 1e-3]
        if not chosen:
            return None
        rows = torch.arange(x.shape[0])
        for row, source in chosen:
            rows[row] = source
        return rows.to(x.device)

    def attn1(n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        if context is not n:  # not self-attention
            return n, context, value
        if n.shape[1] not in by_size:
            by_size[n.shape[1]] = gather(n.shape[1])
        rows = by_size[n.shape[1]]
        if rows is None:
            return n, context, value
        swapped = n[rows]
        return swapped, swapped, value

    return attn1


# --- looking -------------------------------------------------------------------------------------


def attach_viewer(model: Any, positive: Conditioning, maps: MapSum) -> tuple[Any, Conditioning]:
    """A clone of the model and a marked conditioning that add this run's word maps to `maps`."""
    blocks = cross_attention_blocks(model)
    patched = model.clone()

    def apply_model(
        executor: Any, x: Tensor, t: Tensor, c_concat: Any, cross: Any, control: Any, options: Any, **extra: Any
    ) -> Any:
        chunk = x.shape[0] // len(options["uuids"])
        seen = [n for n, name in enumerate(options["uuids"]) if name in options.get(VIEW_KEY, ())]
        if seen:
            rows = slice(seen[0] * chunk, (seen[0] + 1) * chunk)
            options = _with_viewer(options, blocks, maps, rows, x)
        return executor(x, t, c_concat, cross, control, options, **extra)

    def start(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any, **named: Any) -> Any:
        marked = {c["uuid"] for conds in guider.conds.values() for c in conds if VIEW_KEY in c}
        extra_args["model_options"]["transformer_options"][VIEW_KEY] = marked
        return executor(guider, sigmas, extra_args, *rest, **named)

    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, VIEW_KEY, start)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, VIEW_KEY, apply_model)
    return patched, [[cond, {**extra, VIEW_KEY: True}] for cond, extra in positive]


def _with_viewer(
    options: dict[str, Any], blocks: Sequence[tuple[str, int, int]], maps: MapSum, rows: slice, x: Tensor
) -> dict[str, Any]:
    height, width = (round(side * maps.side_ratio) for side in x.shape[-2:])
    replace = {**options.get("patches_replace", {})}
    theirs = replace.get("attn2", {})

    def viewed(previous: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            attention = _attention(extra)
            if q.shape[1] == height * width:
                seen = word_map(attention, q[rows], k[rows], maps.columns, extra["n_heads"])
                maps.add(seen, height, width)
            return attention(q, k, v) if previous is None else previous(q, k, v, extra)

        return attn2

    replace["attn2"] = theirs | {block: viewed(theirs.get(block, theirs.get(block[:2]))) for block in blocks}
    return {**options, "patches_replace": replace}


# --- sampling --------------------------------------------------------------------------------------------------------


class SharedNoise(TorchFunctionMode):
    """While active, noise drawn for a whole batch is drawn for its sources and repeated for their edits.

    The sources' noise is then what a run without edits draws from the same generator, whatever the sampler.
    """

    def __init__(self, rows: int, sources: int) -> None:
        super().__init__()
        self.rows, self.sources = rows, sources

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn_like and args[0].shape[:1] == (self.rows,):
            return self._repeat(func(args[0][: self.sources], *args[1:], **kwargs))
        if func is torch.randn:
            sizes = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            if len(sizes) > 1 and sizes[0] == self.rows:
                rest = {key: value for key, value in kwargs.items() if key != "size"}
                return self._repeat(func((self.sources, *sizes[1:]), **rest))
        return func(*args, **kwargs)

    def _repeat(self, noise: Tensor) -> Tensor:
        return noise.repeat(self.rows // self.sources, *[1] * (noise.ndim - 1))


def _shared_noise(sampler: Any, noise: Tensor, sources: int) -> Any:
    """`SharedNoise` for samplers that draw noise while they run; nothing for the others, which need not pay for it."""
    function = getattr(sampler, "sampler_function", None)
    takes_noise = function is not None and "noise_sampler" in inspect.signature(function).parameters
    churns = getattr(sampler, "extra_options", {}).get("s_churn", 0) > 0
    repaints = getattr(sampler, "inpaint_options", {}).get("random", False)
    if takes_noise or churns or repaints:
        return SharedNoise(noise.shape[0], sources)
    return nullcontext()


def sample(
    model: Any,
    encoded: EncodedController,
    negative: Conditioning,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sample source and edits side by side: (source latent, edited latents, an edit's images together).

    The source latent is what the stock KSampler makes of the source prompt with the same settings. Raises `ValueError`
    for a model without cross-attention, latents of the wrong shape and conditionings that don't match.
    """
    patched = attach(model)
    samples = _checked_latent(model, latent)
    rows = Rows(sources=samples.shape[0], edits=len(encoded.controller.branches))
    repeats = (1 + rows.edits, *[1] * (samples.ndim - 1))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")).repeat(repeats)
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] == rows.sources and rows.sources > 1:
        mask = mask.repeat(1 + rows.edits, *[1] * (mask.ndim - 1))
    result = comfy.sample.sample(
        patched,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        _batched(encoded.conditioning, rows, encoded.controller),
        _matched(negative, rows, "negative"),
        samples.repeat(repeats),
        denoise=denoise,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    source = {**kept, "samples": result[: rows.sources]}
    edited = {key: value for key, value in kept.items() if key not in ("batch_index", "noise_mask")}
    return source, {**edited, "samples": result[rows.sources :]}


def _checked_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError("Expected one latent image or a batch of them, got a nested latent. Sample its parts apart.")
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"Expected a latent of shape [images, {channels}, height, width], got {list(samples.shape)}. "
            "Encode the image with this model's own VAE, or use an empty latent for this kind of model."
        )
    return samples
