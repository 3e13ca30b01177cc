"""What every edit says: which text it writes, when it acts, and how it changes attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ..alignment import Draft, Span
from ..blocks import Blocks
from ..schedules import Schedule, Window
from ..tokens import Prompt
from .map_edit import MapEdit

Read = Callable[[str], Prompt]
"""Tokenises a text."""

Reach = float | None
"""The largest side of a layer, as a fraction of the latent's side; None: automatic."""


@dataclass(frozen=True)
class SelfInjection:
    """When and where an edited row takes the source row's self-attention map.

    Paper section 4, "f(t)". `reach` says up to which layers it is done: 0.25 is the 16×16 layers of
    a 64×64 latent and below, 1 is every layer. Automatic is the authors' own rule, layers of up to
    32×32 cells whatever the latent's size (`unet.AUTOMATIC_PIXELS`).
    """

    window: Window = field(default_factory=Window)
    reach: Reach = None

    def __post_init__(self) -> None:
        if self.window.fade:
            raise ValueError(
                f"Expected a self-attention window with hard ends, got a fade of "
                f"{self.window.fade:g}. Self-attention is all the source's or all its own: "
                "set the fade to 0."
            )
        if self.reach is not None and not 0 < self.reach <= 1:
            raise ValueError(
                f"Expected a self-attention reach above 0 and up to 1, got {self.reach:g}. "
                "It is a fraction of the latent's side: 1 means every layer, 0.25 layers of a "
                "quarter side and below. Leave it out for layers of up to 32×32 cells."
            )


AUTOMATIC, SHARED, ALIGNED = "automatic", "shared structure", "aligned words"
MODES = (AUTOMATIC, SHARED, ALIGNED)


@dataclass(frozen=True)
class Joint:
    """How an edit acts in joint attention, see `joint_attention`; networks without it ignore it.

    `mode` is one of `MODES`; automatic: what the model's family does best. `blocks` are those in
    which the edit acts. `source_vector`: where a network also gets a vector of the whole prompt,
    it is the source's while self-attention is injected. Raises `ValueError` for another mode.
    """

    mode: str = AUTOMATIC
    blocks: Blocks = field(default_factory=Blocks)
    source_vector: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Expected one of {', '.join(MODES)}, got {self.mode!r}.")


@dataclass(frozen=True)
class Aligned:
    """What an edit's tokens are: the two prompts of its chain, and what of them is its own."""

    source: Prompt
    edited: Prompt
    spans: tuple[Span, ...]
    mapper: Tensor
    """float[source_tokens edited_tokens], see `alignment.mapper`."""
    index: int
    """The edit's place in its chain, by which `spans` name it."""
    held: Tensor
    """float[edited_tokens]: 1 on tokens that take the source's attention by this edit, else 0.

    The words it wrote, and everything no edit wrote; not the words of the chain's other edits,
    which have windows of their own, and not tokens that have no counterpart in the source.
    """

    def written(self, *, inserted: bool) -> list[int]:
        """Find the tokens of words that it wrote: inserted, or in the place of others."""
        own = (s for s in self.spans if s.edit == self.index and (not s.source) == inserted)
        return [t for span in own for j in span.edited for t in self.edited.words[j].tokens]


class Edit(Protocol):
    """One link of a chain. A new kind of edit is a class of its own; nothing else knows it."""

    @property
    def schedule(self) -> Schedule | None:
        """When it acts on which words; None: as long as the edits that hold do, or always."""
        ...

    @property
    def self_injection(self) -> SelfInjection: ...

    @property
    def joint(self) -> Joint: ...

    @property
    def holds(self) -> bool:
        """Whether it takes the source's attention; others do so only where no edit of a chain does.

        Only edits that hold inject self-attention, with the same exception.
        """
        ...

    @property
    def tokenwise(self) -> bool:
        """Whether tokens are aligned inside the words it wrote, see `alignment.Span`."""
        ...

    @property
    def phrases(self) -> tuple[str, ...]:
        """Phrases of the edited prompt that it acts on, beside the tokens that it holds."""
        ...

    def rewrite(self, draft: Draft, present: Prompt, index: int, read: Read) -> Draft:
        """Change the text.

        `present` is the draft's text with its words, `index` this edit's place in its chain; `read`
        tokenises a text.
        """
        ...

    def injects(self, span: Span) -> bool:
        """Tell whether words of a span that this edit wrote take the source's attention."""
        ...

    def transform(self, before: MapEdit, words: Aligned, alpha: Tensor) -> MapEdit:
        """Change what edits before it left, by as much as it acts now on each token.

        `alpha` is float[edited_tokens] in 0–1.
        """
        ...
