"""Transformers whose text and image share one attention: one table, a row a family.

The host's attention can be overridden in one place, before it knows which block calls. What is a
block's joint attention is told by its length, text and image together; which block it is, by the
order of calls, or by the host's own count where it has one. Another extension's override is called
in the place of the host's attention, as often as ours would call that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ....attention import RowEdit
from ....background import SourceValues
from ....blocks import clean
from ....calls import CallEdits, Look, sharpens
from ....joint_attention import JointEdit, Layout, own_attention, part_of, seen
from .blocks import COUNT_KEY, Count, block_number, check_came, with_source_vectors
from .masks import without_padding
from .override import OVERRIDE, Call, overriding


@dataclass(frozen=True)
class Kind:
    """A family: how the host's network of this class is built.

    Text stands first in the sequence, but for `before` tokens of the network's own; its tokens are
    made `multiple` at a time, and so many `refiners` look at them alone first. `blocks` are its
    lists of blocks, in order, with what they are called in windows over blocks; `pooled` says
    whether the network also gets a vector of the whole prompt, which acts on every pixel;
    `image_first`, that the image stands before the text; and `patch` how many rows and columns of
    the latent are one token. Where a network has other tokens of its own in a call, such as those
    of quoted text, `image_last` says that the image stands behind them, and `text_last` that the
    text does, too. `references` says whether reference images are left alone, or refused.
    """

    name: str
    blocks: tuple[tuple[str, str], ...]
    before: Callable[[Any], int] = lambda network: 0
    multiple: Callable[[Any], int] = lambda network: 1
    refiners: Callable[[Any], int] = lambda network: 0
    pooled: bool = False
    image_first: bool = False
    patch: Callable[[Any], Any] = lambda network: network.patch_size
    image_last: bool = False
    text_last: Callable[[Any], bool] = lambda network: False
    references: bool = True


_FLUX = (("double_blocks", "double"), ("single_blocks", "single"))
KINDS: dict[str, Kind] = {
    "Flux": Kind(
        "Flux",
        _FLUX,
        pooled=True,
    ),
    "Chroma": Kind("Chroma", _FLUX),
    "OpenAISignatureMMDITWrapper": Kind(
        "SD3",
        (("joint_blocks", "double"),),
        before=lambda network: network.register_length,
        pooled=True,
    ),
    "QwenImageTransformer2DModel": Kind("Qwen-Image", (("transformer_blocks", "double"),)),
    "NextDiT": Kind(
        "Lumina2 or Z-Image",
        (("layers", "single"),),
        multiple=lambda network: getattr(network, "pad_tokens_multiple", None) or 1,
        refiners=lambda network: len(network.context_refiner),
    ),
    "MMDiT": Kind(
        "AuraFlow",
        (("double_layers", "double"), ("single_layers", "single")),
        before=lambda network: network.register_tokens.shape[1],
    ),
    "HiDreamImageTransformer2DModel": Kind(
        "HiDream",
        (("double_stream_blocks", "double"), ("single_stream_blocks", "single")),
        pooled=True,
        image_first=True,
    ),
    "SingleStreamDiT": Kind(
        "Krea 2",
        (("blocks", "single"),),
        refiners=lambda network: len(network.txtfusion.refiner_blocks),
        patch=lambda network: network.patch,
    ),
    "OmniGen2Transformer2DModel": Kind(
        "OmniGen2",
        (("layers", "single"),),
        refiners=lambda network: len(network.context_refiner),
        references=False,
    ),
    "HunyuanVideo": Kind(
        "HunyuanVideo or HunyuanImage",
        _FLUX,
        refiners=lambda network: len(network.txt_in.individual_token_refiner.blocks),
        pooled=True,
        image_last=True,
        text_last=lambda network: network.cond_type_embedding is not None,
    ),
}
"""By the name of the host's class."""


@dataclass(frozen=True)
class Prepared:
    """What the edits of one call are made of."""

    blocks: tuple[JointEdit | None, ...]
    """Of every block."""
    vectors: dict[int, int] = field(hash=False)
    """Rows whose vector of the whole prompt is the source's now, and the source's row."""
    padded: dict[int, int] = field(hash=False)
    """Rows whose text ends before the call's, and how many tokens it has."""


@dataclass(frozen=True)
class Transformer:
    """A network of one of `KINDS`."""

    kind: Kind
    kinds: tuple[str, ...]
    """What each block is called, in order."""
    starts: dict[str, int] = field(hash=False)
    """Number of the first block so called."""
    patch: int
    before: int
    multiple: int
    refiners: int
    text_last: bool

    @classmethod
    def of(cls, model: Any) -> Transformer | None:
        """Recognise a model's network; None for one of another kind."""
        network = model.model.diffusion_model
        kind = KINDS.get(type(network).__name__)
        if kind is None:
            return None
        if kind.name.startswith("Lumina2") and not hasattr(network, "pad_tokens_multiple"):
            raise ValueError(
                "Expected a newer ComfyUI for Lumina2, got one that cannot sample several prompts "
                "of it in a batch. Update ComfyUI."
            )
        if kind.image_last and not hasattr(network, "cond_type_embedding"):
            raise ValueError(
                f"Expected a newer ComfyUI for {kind.name}, got one whose network has the image "
                "before the text. Update ComfyUI."
            )
        named = [(name, len(getattr(network, attribute, ()))) for attribute, name in kind.blocks]
        kinds = tuple(name for name, count in named for _ in range(count))
        starts = {name: kinds.index(name) for name in dict.fromkeys(kinds)}
        patch = kind.patch(network)
        return cls(
            kind,
            kinds,
            starts,
            patch if isinstance(patch, int) else patch[-1],
            kind.before(network),
            kind.multiple(network),
            kind.refiners(network),
            kind.text_last(network),
        )

    @property
    def sides(self) -> tuple[float, ...]:
        return (1 / self.patch,)

    def prepared(self, edits: CallEdits, latent: Tensor) -> Prepared | None:
        """Prepare what a call's edits are made of, see `Family`.

        Raises `ValueError` for prompts of other lengths where several encoders' texts stand one
        after the other, each with padding of its own.
        """
        vectors: dict[int, int] = {}

        def made(rows: list[RowEdit]) -> JointEdit | None:
            vectors.update((row.row, row.source) for row in rows if row.source_vector)
            return JointEdit.of(rows, latent.shape[0], latent.device)

        blocks, padded = edits.of_each_block(self.kinds, made), edits.padded()
        if padded and self.kind.image_first:
            raise ValueError(
                f"Expected prompts of equally many tokens for {self.kind.name}, whose encoders "
                "fill texts up to 128, got longer ones. Make the prompts shorter."
            )
        found = padded or any(block is not None for block in blocks)
        return Prepared(blocks, vectors, padded) if found else None

    def conditions(self, prepared: Prepared | None, given: dict[str, Any]) -> dict[str, Any]:
        """Edit the prompt's vector, see `Family`.

        Raises `ValueError` for reference images where they cannot be told from the image.
        """
        if not self.kind.references and given.get("ref_latents") is not None:
            raise ValueError(
                f"Expected no reference images for {self.kind.name}, whose network refines them "
                "as it does the image, got some. Take ReferenceLatent off the conditioning."
            )
        if prepared is None or not self.kind.pooled:
            return given
        return with_source_vectors(given, prepared.vectors)

    def edited(
        self,
        options: dict[str, Any],
        prepared: Prepared | None,
        looks: Sequence[Look],
        values: SourceValues | None,
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """transformer_options of one call with its edits and looks in them, see `Family`."""
        count = Count()
        sizes = (*latent[2:-2], *(ceil(side / self.patch) for side in latent[-2:]))
        grid, pixels = (prod(sizes[:-1]), sizes[-1]), prod(sizes)
        text, start = self.before, self.before + ceil(tokens / self.multiple) * self.multiple
        if self.kind.image_first:
            text, start = pixels, 0
        least = pixels + (tokens if self.kind.image_first else start)
        watched = clean(self.kind.name, len(self.kinds))
        padded = prepared.padded if prepared is not None else {}

        def handle(call: Call) -> Tensor:
            length = call.q.shape[-2]
            ours = call.rows == latent[0] and length == call.k.shape[-2]
            joint = ours and (length == least if self.kind.image_first else length >= least)
            refining = ours and length == start and count.refined < self.refiners
            count.refined += refining
            if padded and (joint or refining):
                before = length - pixels - tokens if joint and self.text_last else text
                mask = without_padding(call.mask, padded, before, tokens, call.q)
                call = replace(call, mask=mask)
            if not joint:
                return call.given()
            block = block_number(count, call.options, self.starts)
            edit = prepared.blocks[block] if prepared is not None else None

            def some(q: Tensor, k: Tensor, v: Tensor, rows: Sequence[int], queries: Any) -> Tensor:
                return call.attend(q, k, v, part_of(call.mask, rows, queries))

            image = length - pixels if self.kind.image_last else start
            first = image - tokens if self.text_last else text
            layout = Layout(slice(first, first + tokens), slice(image, image + pixels), call.heads)
            if values is not None:
                call = replace(call, v=values.within(call.v, sizes, layout.image))
            if looks and block in watched:
                output = partial(seen, some, edit, layout)
                own = None
                if sharpens(looks):
                    own = own_attention(call.attend, edit, layout, call.q, call.k)
                for look in looks:
                    look.take(output, output, call.q, call.k, call.heads, grid, layout.text, own)
            if edit is None:
                return call.given()
            return call.returned(edit.attend(some, call.q, call.k, call.v, layout))

        return {**options, OVERRIDE: overriding(options, handle), COUNT_KEY: count}

    def check(self, options: dict[str, Any]) -> None:
        """Raises `ValueError` if a call that is over had none of its attention here."""
        check_came(options, self.kind.name)
