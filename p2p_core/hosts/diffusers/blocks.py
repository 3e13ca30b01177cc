"""A transformer's attention while it obeys an edit, whichever processors it has.

The attention of a block is a module, which calls PyTorch's own attention once its queries, keys and
values are made, with norms and places in them. There an edit acts, and nowhere else: what a family
does before and after stays diffusers' own, adapters included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...attention import CrossEdit, RowEdit, SelfEdit
from ...attention_maps import OwnAttention
from ...background import SourceValues
from ...calls import CallEdits, Look, sharpens, with_sources
from ...edits import SHARED
from ...inversion.task import Embedding
from ...joint_attention import JointEdit, Layout, own_attention, part_of, seen
from .attention import plain_attention


@dataclass(frozen=True)
class Attending:
    """One call of PyTorch's attention; q, k and v are [rows heads tokens width]."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    named: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    def given(self) -> Tensor:
        """Compute it as it was called: [rows heads tokens width]."""
        return F.scaled_dot_product_attention(
            self.q, self.k, self.v, attn_mask=self.mask, **self.named
        )

    def some(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Sequence[int], queries: Tensor | slice
    ) -> Tensor:
        """Compute some rows and queries of it, see `joint_attention.JointAttend`."""
        mask = part_of(self.mask, rows, queries)
        return _joined(replace(self, q=q, k=k, v=v, mask=mask).given())

    def of_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute it of the image alone, of which a mask hides nothing."""
        return _joined(replace(self, q=q, k=k, v=v, mask=None).given())

    def apart(self, output: Tensor) -> Tensor:
        """Give an output with joined heads the shape that the caller asked for."""
        return rearrange(output, "rows tokens (h w) -> rows h tokens w", h=self.heads)


def _joined(x: Tensor) -> Tensor:
    return rearrange(x, "rows h tokens w -> rows tokens (h w)")


class _Seam(TorchFunctionMode):
    """While it lasts, hands every call of PyTorch's attention to a function."""

    def __init__(self, handle: Callable[[Attending], Tensor]) -> None:
        super().__init__()
        self.handle = handle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        named: dict[str, Any] = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        q, k, v = (named.pop(name) for name in names[:3])
        return self.handle(Attending(q, k, v, named.pop("attn_mask", None), named))


@dataclass(frozen=True)
class Shape:
    """Where in a call's sequence what stands, and the grid that the image's tokens form."""

    rows: int
    sizes: tuple[int, int, int]
    """(frames, height, width)."""
    text: slice
    """Of the prompts' tokens; those that fill up to a longer negative text are not of it."""
    image: slice
    texts: int
    """Tokens of text in the call."""

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width), the frames of a video one below the other."""
        frames, height, width = self.sizes
        return frames * height, width


@dataclass(frozen=True)
class Prepared:
    """What the edits of one call are made of: of every block, and of vectors of whole prompts."""

    blocks: tuple[Any, ...]
    vectors: dict[int, int] = field(hash=False)
    """Rows whose vector of the whole prompt is the source's now, and the source's row."""


@dataclass
class Blocks:
    """What a transformer's blocks do in the call under way; changes from call to call."""

    name: str
    kinds: tuple[str, ...]
    """What each block is called, in order."""
    watched: frozenset[int]
    """Blocks that are looked at."""
    prepared: Prepared | None = None
    looks: Sequence[Look] = ()
    values: SourceValues | None = None
    shape: Shape | None = None
    came: int = 0
    latest: OwnAttention | None = None
    """Of a block whose image looks at itself first."""

    def obey(
        self,
        prepared: Prepared | None,
        looks: Sequence[Look],
        values: SourceValues | None,
        shape: Shape,
    ) -> None:
        """Do in the next call what was prepared, look, and take `values`."""
        self.prepared, self.looks, self.values = prepared, looks, values
        self.shape, self.came = shape, 0

    def vectors(self, text: Embedding) -> Embedding:
        """Give edited rows their source's vector of the whole prompt, where it is wanted."""
        if self.prepared is None or not self.prepared.vectors:
            return text
        return Embedding(text.tokens, with_sources(text.rest, self.prepared.vectors))

    def check(self) -> None:
        """Raises `ValueError` if none of a call's attention, now over, came by."""
        if not self.came:
            raise ValueError(
                f"Expected the attention of {self.name} to be PyTorch's own, but none of it was: "
                "another attention backend or a compiler is at work. Choose "
                'transformer.set_attention_backend("native"), and do not compile it.'
            )

    def prepare(self, edits: CallEdits, x: Tensor, pooled: bool) -> Prepared | None:
        """Prepare the edits of a call on latents x; None where nothing is edited.

        `pooled`: whether the network gets vectors of whole prompts.
        """
        vectors: dict[int, int] = {}

        def made(rows: list[RowEdit]) -> Any:
            vectors.update((row.row, row.source) for row in rows if pooled and row.source_vector)
            return self.made(rows, x)

        blocks = edits.of_each_block(self.kinds, made)
        if not vectors and all(block is None for block in blocks):
            return None
        return Prepared(blocks, vectors)

    def made(self, rows: Sequence[Any], x: Tensor) -> Any:
        """Make one block's edit of the edited rows; None where none is touched."""
        raise NotImplementedError

    def handle(self, block: int, role: int, call: Attending) -> Tensor:
        """Compute one call of attention; `role` counts the modules of a block."""
        raise NotImplementedError


class JointBlocks(Blocks):
    """Blocks in which text and image share one softmax, see `joint_attention`."""

    def made(self, rows: Sequence[Any], x: Tensor) -> JointEdit | None:
        """Make a block's edit, see `Blocks`."""
        return JointEdit.of(rows, x.shape[0], x.device)

    def handle(self, block: int, role: int, call: Attending) -> Tensor:
        """Compute a call of a block's attention, see `Blocks`."""
        shape, length = self.shape, call.q.shape[-2]
        assert shape
        end = max(shape.text.stop, shape.image.stop)
        if call.q.shape[0] != shape.rows or length != call.k.shape[-2] or length < end:
            return call.given()
        self.came += 1
        if self.values is not None:
            call = replace(call, v=self.values.within(call.v, shape.sizes, shape.image))
        layout = Layout(shape.text, shape.image, call.heads)
        edit = None if self.prepared is None else self.prepared.blocks[block]
        if self.looks and block in self.watched:
            output = partial(seen, call.some, edit, layout)
            own = None
            if sharpens(self.looks):
                own = own_attention(call.of_image, edit, layout, call.q, call.k)
            for look in self.looks:
                look.take(output, output, call.q, call.k, call.heads, shape.grid, layout.text, own)
        if edit is None:
            return call.given()
        return call.apart(edit.attend(call.some, call.q, call.k, call.v, layout))


class CrossBlocks(Blocks):
    """Blocks whose image looks at itself (role 0) and at its text (role 1): the paper's algebra."""

    def made(
        self, rows: Sequence[Any], x: Tensor
    ) -> tuple[CrossEdit | None, SelfEdit | None] | None:
        """Make a block's edit, see `Blocks`.

        Raises `ValueError` for edits that share structure, which is joint attention's.
        """
        if any(row.mode == SHARED for row in rows):
            raise ValueError(
                f"Expected edits of {self.name}, whose text has a softmax of its own, got one for "
                "joint attention. Set attention to automatic."
            )
        injected = [(row.row, row.source, torch.inf) for row in rows if row.reaches]
        made = (
            CrossEdit.of(rows, x.shape[0], x.device),
            SelfEdit.of(injected, x.shape[0], x.device),
        )
        return made if any(one is not None for one in made) else None

    def handle(self, block: int, role: int, call: Attending) -> Tensor:
        """Compute a call of a block's attention, see `Blocks`."""
        shape = self.shape
        assert shape
        pixels = shape.grid[0] * shape.grid[1]
        keys = pixels if role == 0 else shape.texts
        if call.q.shape[0] != shape.rows or call.q.shape[-2] != pixels or call.k.shape[-2] != keys:
            return call.given()
        self.came += 1
        cross, own = (self.prepared.blocks[block] if self.prepared else None) or (None, None)
        if role == 0:
            rows = None if own is None else own.gather(pixels)
            if rows is not None:
                call = replace(call, q=call.q.index_select(0, rows), k=call.k.index_select(0, rows))
            if self.values is not None:
                call = replace(call, v=self.values.within(call.v, shape.sizes))
            if sharpens(self.looks):
                self.latest = OwnAttention(call.of_image, call.q, call.k, call.heads)
            return call.given()
        if cross is None and not self.looks:
            return call.given()
        q, k, v = (_joined(x) for x in (call.q, call.k, call.v))
        attention = partial(plain_attention, call.heads)
        edited = attention if cross is None else partial(cross.attend, attention)
        for look in self.looks:
            under = None if cross is None else edited
            look.take(attention, under, q, k, call.heads, shape.grid, shape.text, self.latest)
        self.latest = None
        return call.apart(edited(q, k, v))


@contextmanager
def attached(blocks: Blocks, modules: Sequence[Sequence[Any]]) -> Iterator[Blocks]:
    """Have blocks' attention obey `blocks`, while the context lasts; it is given out.

    `modules` are each block's, in order, and over again where transformers take turns.
    """
    with ExitStack() as stack:
        for number, several in enumerate(modules):
            for role, module in enumerate(several):
                block = number % len(blocks.kinds)
                seam = _Seam(partial(blocks.handle, block, role))
                enter = module.register_forward_pre_hook(partial(_enter, seam))
                stack.callback(enter.remove)
                leave = module.register_forward_hook(partial(_leave, seam), always_call=True)
                stack.callback(leave.remove)
        yield blocks


def _enter(seam: _Seam, module: Any, given: Any) -> None:
    seam.__enter__()


def _leave(seam: _Seam, module: Any, given: Any, output: Any) -> None:
    seam.__exit__(None, None, None)  # pyright: ignore[reportUnknownMemberType]
