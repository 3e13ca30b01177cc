"""Transformers whose text and image share one attention: one table, a row a family.

The host's attention can be overridden in one place, before it knows which block calls. What is a
block's joint attention is told by its length, text and image together; which block it is, by the
order of calls, or by the host's own count where it has one. Another extension's override is called
in the place of the host's attention, as often as ours would call that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ....calls import CallEdits, Look
from ....joint_attention import JointEdit, Layout
from .override import OVERRIDE, Call, overriding

COUNT_KEY = "p2p_blocks"
"""Our entry in the transformer_options of one call: how many of its blocks have come by."""


@dataclass(frozen=True)
class Kind:
    """A family: how the host's network of this class is built.

    Text stands first in the sequence, but for `before` tokens of the network's own; its tokens are
    made `multiple` at a time, and so many `refiners` look at them alone first. `blocks` are its
    lists of blocks, in order, with what they are called in windows over blocks; `pooled` says
    whether the network also gets a vector of the whole prompt, which acts on every pixel. `clean`,
    of the blocks in order, are those in which words are found best (Shin et al. 2025); none: all.
    """

    name: str
    blocks: tuple[tuple[str, str], ...]
    before: Callable[[Any], int] = lambda network: 0
    multiple: Callable[[Any], int] = lambda network: 1
    refiners: Callable[[Any], int] = lambda network: 0
    pooled: bool = False
    clean: Callable[[int], Sequence[int]] = lambda count: range(count)


def _clean(count: int, known: dict[int, tuple[int, ...]]) -> Sequence[int]:
    """The blocks that are known to be clean in a model of so many."""
    return known.get(count, range(count))


_FLUX = (("double_blocks", "double"), ("single_blocks", "single"))
KINDS: dict[str, Kind] = {
    "Flux": Kind(
        "Flux",
        _FLUX,
        pooled=True,
        clean=partial(_clean, known={57: (11, 12, 14, 17, 18)}),
    ),
    "Chroma": Kind("Chroma", _FLUX),
    "OpenAISignatureMMDITWrapper": Kind(
        "SD3",
        (("joint_blocks", "double"),),
        before=lambda network: network.register_length,
        pooled=True,
        clean=partial(_clean, known={24: (4, 5, 7, 8, 9), 38: (16, 18, 20, 21, 24)}),
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
}
"""By the name of the host's class."""


@dataclass(frozen=True)
class Prepared:
    """What the edits of one call are made of."""

    blocks: tuple[JointEdit | None, ...]
    """Of every block."""
    pooled: tuple[tuple[int, int], ...]
    """(row, source row): whose vector of the whole prompt is the source's now."""
    padded: dict[int, int] = field(hash=False)
    """Rows whose text ends before the call's, and how many tokens it has."""


@dataclass
class Count:
    """Which block comes next; changes while the network runs."""

    came: int = 0
    refined: int = 0
    crossing: bool = False
    """Whether a block's self-attention was last, where it also has a cross-attention."""


def block_number(count: Count, options: dict[str, Any], starts: Mapping[str, int]) -> int:
    """Tell which block calls: as the host says, else the next.

    `starts` are the numbers of the first block of every type that the host counts by itself.
    """
    number = count.came
    if "block_index" in options:
        number = starts.get(options.get("block_type", ""), 0) + options["block_index"]
    count.came = number + 1
    return number


def check_came(options: dict[str, Any], name: str) -> None:
    """Raise `ValueError` if none of a call's attention came to our override."""
    count = options.get(COUNT_KEY)
    if count is not None and not count.came:
        raise ValueError(
            f"Expected the attention of {name} to go through ComfyUI's own functions, but none of "
            "it did: another extension replaces the network or its attention (such as Nunchaku). "
            "Load the model with ComfyUI's own loader."
        )


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
        named = [(name, len(getattr(network, attribute, ()))) for attribute, name in kind.blocks]
        kinds = tuple(name for name, count in named for _ in range(count))
        starts = {name: kinds.index(name) for name in dict.fromkeys(kinds)}
        patch = network.patch_size
        return cls(
            kind,
            kinds,
            starts,
            patch if isinstance(patch, int) else patch[-1],
            kind.before(network),
            kind.multiple(network),
            kind.refiners(network),
        )

    @property
    def sides(self) -> tuple[float, ...]:
        return (1 / self.patch,)

    def prepared(self, edits: CallEdits, latent: Tensor) -> Prepared | None:
        """Prepare what a call's edits are made of, see `Family`."""
        alike: dict[Any, JointEdit | None] = {}
        blocks: list[JointEdit | None] = []
        pooled: dict[int, int] = {}
        for block in range(len(self.kinds)):
            covered = edits.covered(block, self.kinds)
            if covered not in alike:
                rows = edits.rows(block, self.kinds)
                alike[covered] = JointEdit.of(rows, latent.shape[0], latent.device)
                pooled |= {row.row: row.source for row in rows if row.source_vector}
            blocks.append(alike[covered])
        padded = edits.padded()
        found = padded or any(block is not None for block in blocks)
        return Prepared(tuple(blocks), tuple(pooled.items()), padded) if found else None

    def conditions(self, prepared: Prepared | None, given: dict[str, Any]) -> dict[str, Any]:
        """Edit the prompt's vector, see `Family`."""
        vector = given.get("y")
        if prepared is None or not self.kind.pooled or not isinstance(vector, Tensor):
            return given
        rows = torch.arange(vector.shape[0], device=vector.device)
        for row, source in prepared.pooled:
            rows[row] = source
        return {**given, "y": vector.index_select(0, rows)}

    def edited(
        self,
        options: dict[str, Any],
        prepared: Prepared | None,
        looks: Sequence[Look],
        latent: torch.Size,
        tokens: int,
    ) -> dict[str, Any]:
        """transformer_options of one call with its edits and looks in them, see `Family`."""
        count = Count()
        grid = tuple(ceil(side / self.patch) for side in latent[-2:])
        pixels = grid[0] * grid[1] * (latent[2] if len(latent) == 5 else 1)
        start = self.before + ceil(tokens / self.multiple) * self.multiple
        watched = set(self.kind.clean(len(self.kinds)))
        padded = prepared.padded if prepared is not None else {}

        def handle(call: Call) -> Tensor:
            length = call.q.shape[-2]
            own = call.rows == latent[0] and length == call.k.shape[-2]
            joint = own and length >= start + pixels
            refining = own and length == start and count.refined < self.refiners
            count.refined += refining
            if padded and (joint or refining):
                mask = _without_padding(call.mask, padded, self.before, tokens, call.q)
                call = replace(call, mask=mask)
            if not joint:
                return call.given()
            block = block_number(count, call.options, self.starts)
            edit = prepared.blocks[block] if prepared is not None else None

            def some(q: Tensor, k: Tensor, v: Tensor, rows: Sequence[int], queries: Any) -> Tensor:
                return call.attend(q, k, v, _part(call.mask, rows, queries))

            layout = Layout(
                slice(self.before, self.before + tokens), slice(start, start + pixels), call.heads
            )
            if looks and block in watched:
                seen = partial(self._seen, some, edit, layout)
                for look in looks:
                    look.take(seen, seen, call.q, call.k, call.heads, grid, layout.text)
            if edit is None:
                return call.given()
            return call.returned(edit.attend(some, call.q, call.k, call.v, layout))

        return {**options, OVERRIDE: overriding(options, handle), COUNT_KEY: count}

    def check(self, options: dict[str, Any]) -> None:
        """Raises `ValueError` if a call that is over had none of its attention here."""
        check_came(options, self.kind.name)

    @staticmethod
    def _seen(
        some: Callable[..., Tensor],
        edit: JointEdit | None,
        layout: Layout,
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Tensor:
        """The image's output for these values, edited where there is an edit."""
        if edit is not None:
            return edit.attend(some, q, k, v, layout)[:, layout.image]
        return some(q[..., layout.image, :], k, v, range(q.shape[0]), layout.image)


def _without_padding(
    mask: Tensor | None, padded: dict[int, int], before: int, tokens: int, q: Tensor
) -> Tensor:
    """A mask under which nothing looks at tokens that prompts are padded with."""
    seen = q.new_zeros(q.shape[0], 1, 1, q.shape[-2])
    for row, length in padded.items():
        seen[row, ..., before + length : before + tokens] = -torch.inf
    if mask is None:
        return seen
    if mask.dtype == torch.bool:
        return mask.view(*_four(mask)) & (seen == 0)
    return mask.view(*_four(mask)) + seen


def _four(mask: Tensor) -> tuple[int, ...]:
    """The shape of a mask with axes for rows, heads, queries and keys."""
    rows, heads = {2: (1, 1), 3: (mask.shape[0], 1)}.get(mask.ndim, tuple(mask.shape[:2]))
    return rows, heads, *mask.shape[-2:]


def _part(mask: Tensor | None, rows: Sequence[int], queries: Tensor | slice) -> Tensor | None:
    """A mask of some rows and queries of a call."""
    if mask is None:
        return None
    if mask.ndim > 2 and mask.shape[0] > 1:
        mask = mask[list(rows)]
    return mask[..., queries, :] if mask.shape[-2] > 1 else mask
