"""Prompts and their conditioning: words as the host's CLIP sees them, rows as its sampler does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from comfy.utils import resize_to_batch_size
from torch import Tensor

from ...attention_maps import WordMaps
from ...controller import Chain, Controller, Rows, plan
from ...inversion.task import Found
from .guarding import guarded, unguarded
from .known import Known
from .prompts import Columns, read
from .texts import (
    GLYPHS_KEY,
    MASK_KEY,
    PROMPT_KEYS,
    filled_in_front,
    kept_apart,
    source_entry,
    text_length,
)

CONTROLLER_KEY = "p2p_controller"
"""Marks conditioning that a controller made, one row per prompt: the entry holds the controller."""

PAYLOAD_KEY = "p2p_payload"
"""Marks conditioning with one row for every row of the batch: the entry holds a `Payload`."""

IMAGE_KEYS = ("concat_latent_image", "concat_mask")
"""The host's own: what an inpainting model is given to fill in, fitted to the images it makes."""

REPEATED = 8
"""How often the longest prompt may be repeated until all prompts of a batch are of one length.

What an edit is made of grows with the square of that length. A prompt of n chunks beside one of
n + 1 needs n. (The host itself doesn't batch texts that it would have to repeat more than 4 times.)
"""

Conditioning = list[list[Any]]
"""The host's CONDITIONING: entries [float[rows tokens channels], dict]."""


@dataclass(frozen=True)
class Payload:
    """What a conditioning brings along into sampling: who edits its rows, and who looks at them."""

    controller: Controller | None
    rows: Rows | None
    """None: whatever rows it is sampled in, each by itself."""
    maps: tuple[WordMaps, ...] = ()
    sigmas: tuple[float, ...] | None = None
    """The noise levels that windows refer to; None: those of the run."""
    continues: bool = False
    """Whether rows begin as an earlier run left them."""
    found: Found | None = None
    """Of the sources' inversion, for the negative prompt: its tokens may be others at each step."""
    known: Known | None = None
    """Of sources whose rows need not run where nothing looks at them."""
    values: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Masks outside which a branch takes its source's values, as they are now, see `Blending`."""

    def needs_source(self, here: float) -> bool:
        """Tell whether something looks at the sources' attention at a progress of sampling, 0–1."""
        edited = self.controller is not None and self.controller.needs_source(here)
        return edited or bool(self.maps) or bool(self.values)


@dataclass(frozen=True)
class EncodedController:
    """A controller and its prompts' conditioning.

    One row for the source, then one for every branch; every entry is marked as the controller's,
    and guarded against samplers that don't know what it is.
    """

    controller: Controller
    conditioning: Conditioning

    @classmethod
    def of(cls, controller: Controller, conditioning: Conditioning) -> EncodedController:
        """Mark a conditioning of one row per prompt as the controller's."""
        marked = [
            [cond, {**guarded(extra), CONTROLLER_KEY: controller}] for cond, extra in conditioning
        ]
        return cls(controller, marked)


def build_controller(clip: Any, source_prompt: str, chains: Sequence[Chain]) -> EncodedController:
    """Resolve the chains and encode every prompt.

    Raises `ValueError` as `controller.plan` does, for prompts of lengths that don't go together and
    for a text encoder that does not give a token for each of its tokenizer's.
    """
    if clip is None:
        raise ValueError(
            "Expected a CLIP, got none: the checkpoint has no text encoder. "
            "Load one with a CLIP loader."
        )
    encode = cache(lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text)))
    read(clip, source_prompt)  # before the host's encoder, which has no sentence for what it can't
    columns = Columns.of(clip, source_prompt, *encode(source_prompt)[0])
    front = columns.front if columns else 0
    controller = plan(source_prompt, chains, lambda text: read(clip, text, columns))
    lengths = sorted({prompt.length for prompt in controller.prompts})
    if controller.length > REPEATED * lengths[-1]:
        raise ValueError(
            f"Expected prompts that can be repeated to one length of at most {REPEATED} times the "
            f"longest, got prompts of {', '.join(map(str, lengths))} tokens, which meet at "
            f"{controller.length} only. Bring the edited prompts closer to the source prompt's "
            "length, or give each edit a controller of its own."
        )
    encoded = [
        [filled_in_front(entry, front) for entry in encode(prompt.text)]
        for prompt in controller.prompts
    ]
    for prompt, entries in zip(controller.prompts, encoded, strict=True):
        for length in (text_length(*entry) for entry in entries):
            if length != prompt.length:
                raise ValueError(
                    f"Expected a text encoder that gives a token for each of its tokenizer's "
                    f"{prompt.length}, got {length}. A patch such as NegPip makes others "
                    "of them, whose words cannot be told: take it off the CLIP."
                )
    entries = [stacked(entries, controller) for entries in zip(*encoded, strict=True)]
    return EncodedController.of(controller, entries)


def stacked(entries: Sequence[list[Any]], controller: Controller) -> list[Any]:
    """Stack entries of one row each to one of as many rows, their texts made of one length.

    Raises `ValueError` where what stands beside them has no length in common.
    """
    length = controller.length
    apart = kept_apart(entries, length)
    if apart is not None:
        return apart
    conds = [entry[0] for entry in entries]
    beside = {text_length(*entry) - entry[0].shape[1] for entry in entries}
    if len(beside) > 1:
        raise ValueError(
            "Expected prompts of equally many tokens in an encoder whose text stands beside "
            "another's, got others. Make the longer ones shorter."
        )
    length -= beside.pop()
    if controller.repeats:  # as the host does
        cond = torch.cat([one.repeat(1, length // one.shape[1], 1) for one in conds])
    else:
        cond = torch.cat([_padded(one, length) for one in conds])
    if len({_shape(entry[1].get(GLYPHS_KEY)) for entry in entries}) > 1:
        raise ValueError(
            "Expected prompts with equally long text in quotation marks, which an encoder of its "
            "own reads letter by letter, got others. Write the same in them, or none."
        )
    extra = dict(entries[0][1])
    if any(isinstance(entry[1].get(MASK_KEY), Tensor) for entry in entries):
        extra[MASK_KEY] = _masks(entries, controller)
    for key, value in extra.items():
        if key != MASK_KEY and (
            isinstance(value, Tensor)
            and value.ndim
            and all(entry[1][key].shape == value.shape for entry in entries)
        ):
            extra[key] = torch.cat([entry[1][key] for entry in entries])
    return [cond, extra]


def _padded(text: Tensor, length: int) -> Tensor:
    """Pad a text, float[1 tokens channels], with its mean: a network may take that of all tokens.

    Its attention never looks there.
    """
    return torch.cat([text, text.mean(1, keepdim=True).expand(-1, length - text.shape[1], -1)], 1)


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None


def _masks(entries: Sequence[list[Any]], controller: Controller) -> Tensor:
    """Stack the masks of texts as the texts: [prompts tokens], 1 where there is one.

    Where none hides anything there is one row for all: what rows are padded with is hidden by us.
    """
    masks = [extra.get(MASK_KEY, cond.new_ones(cond.shape[:2]).long()) for cond, extra in entries]
    length = controller.length
    if all(bool(mask.all()) for mask in masks):
        return masks[0].new_ones(1, length)
    if controller.repeats:
        return torch.cat([mask.repeat(1, length // mask.shape[1]) for mask in masks])
    return torch.cat([F.pad(mask, (0, length - mask.shape[1])) for mask in masks])


def source_alone(encoded: EncodedController) -> Conditioning:
    """Cut out the source prompt's own conditioning, one row, as a text encoder gives it."""
    source, prompts = encoded.controller.source, len(encoded.controller.prompts)

    def first(value: Any) -> Any:
        several = isinstance(value, Tensor) and value.ndim and value.shape[0] == prompts
        return value[:1] if several else value

    return [
        source_entry(extra)
        or [
            cond[:1, source.front : source.length],
            {k: first(value) for k, value in unguarded(extra).items() if k != CONTROLLER_KEY},
        ]
        for cond, extra in encoded.conditioning
    ]


def batched(
    conditioning: Conditioning, payload: Payload, name: str, found: Found | None = None
) -> Conditioning:
    """Repeat a conditioning for all rows of a batch.

    Entries that the controller made, one row per prompt, get its edits; others may have one row or
    one per source, and have the null embeddings that an inversion `found`. Raises `ValueError` for
    other counts, of masks too, for entries of another controller, and for prompts joined to the
    controller's.
    """
    rows = payload.rows
    assert rows is not None  # a run of source and edits
    # what has one row when there is one source may be for all rows: the host repeats it
    many = rows.sources if rows.sources > 1 else None
    by_image = partial(_if_as_many, many, rows.of_sources)
    by_prompt = partial(_if_as_many, rows.prompts, rows.of_prompts)
    batched: Conditioning = []
    for cond, extra in conditioning:
        extra = extra | _of_sources(extra, rows.sources, name)
        maker = extra.get(CONTROLLER_KEY)
        if maker is None:
            if cond.shape[0] not in (1, rows.sources):
                raise ValueError(
                    f"Expected a {name} conditioning of 1 row or of {rows.sources} "
                    f"(one for each latent), got {cond.shape[0]}. "
                    f"Encode one {name} prompt, or as many as the latent batch has images."
                )
            given = {key: by_image(value) for key, value in extra.items()}
            if found is not None and found.null_embeddings is not None:
                cond = cond.expand(rows.sources, -1, -1)
                given[PAYLOAD_KEY] = Payload(None, rows, sigmas=payload.sigmas, found=found)
            batched.append([by_image(cond), given])
            continue
        if maker is not payload.controller:
            raise ValueError(
                f"Expected the {name} conditioning of the sampler's own controller, got another's. "
                "Connect both from the same P2P Controller."
            )
        if text_length(cond, extra) != maker.length:
            raise ValueError(
                f"Expected the controller's conditioning of {maker.length} tokens, got "
                f"{text_length(cond, extra)}. Do not join other prompts to it (Conditioning "
                "Concat): write them into the source prompt."
            )
        given = {
            key: by_prompt(value if key in PROMPT_KEYS else by_image(value))
            for key, value in unguarded(extra).items()
        }
        batched.append([by_prompt(cond), {**given, PAYLOAD_KEY: payload}])
    return batched


def _of_sources(extra: dict[str, Any], sources: int, name: str) -> dict[str, Any]:
    """What an entry has for single images, fitted to the sources as the host would in their run.

    Raises `ValueError` for as many masks as it cannot fit.
    """
    masks = len(extra.get("mask", (None,)))
    if sources % masks:
        raise ValueError(
            f"Expected one mask of the {name} conditioning, or one for each of {sources} latent "
            f"image(s), got {masks}. Give as many masks as the latent batch has images, or one."
        )
    return {key: resize_to_batch_size(extra[key], sources) for key in IMAGE_KEYS if key in extra}


def _if_as_many(count: int | None, spread: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A tensor of so many rows, spread over the batch's; anything else as it is."""
    counted = isinstance(value, Tensor) and value.ndim and value.shape[0] == count
    return spread(value) if counted else value
