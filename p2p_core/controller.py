"""A run's plan: one source prompt, its edited branches, and the batch rows they are sampled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm

from torch import Tensor

from .alignment import Draft, Span, align, mapper
from .edits import Edit, Pair, governed_tokens
from .tokens import Prompt

Chain = tuple[Edit, ...]
"""Edits in order; each changes the text that the one before it left."""


@dataclass(frozen=True)
class Rows:
    """The rows of one sampling batch: the sources first, then each edit as a block of its own."""

    sources: int
    edits: int

    @property
    def total(self) -> int:
        return self.sources * (1 + self.edits)

    def block(self, branch: int) -> range:
        """Rows of edited branch `branch`, counting from 0; −1 is the block of sources."""
        return range((branch + 1) * self.sources, (branch + 2) * self.sources)

    def pairs(self, branch: int) -> Iterator[tuple[int, int]]:
        """(edited row, its source row) of a branch."""
        return zip(self.block(branch), self.block(-1), strict=True)


@dataclass(frozen=True)
class Moment:
    """What a branch does at one moment of sampling."""

    pair: Pair
    self_reach: float
    """Self-attention is injected in layers up to this fraction of the latent's side; 0: nowhere."""


@dataclass(frozen=True)
class Branch:
    """One edited prompt: a chain resolved against the source prompt."""

    chain: Chain
    edited: Prompt
    spans: tuple[Span, ...]
    carried: Tensor
    """float[source_tokens edited_tokens], see `alignment.mapper`."""
    governs: tuple[Tensor, ...]
    """For each edit of the chain, float[edited_tokens]: the tokens it acts on."""

    def weights(self, progress: float) -> tuple[float, ...]:
        """All that a moment depends on: every edit's α, then the self-attention reach."""
        alphas = [edit.cross.weight(progress) for edit in self.chain]
        reaches = [
            edit.self_injection.reach
            for edit in self.chain
            if edit.self_injection.window.weight(progress)
        ]
        return (*alphas, max(reaches, default=0.0))

    def at(self, progress: float) -> Moment:
        """The branch's pair and self-attention reach at this progress of sampling, 0–1."""
        *alphas, reach = self.weights(progress)
        pair = Pair.untouched(*self.carried.shape)
        for edit, alpha, governs in zip(self.chain, alphas, self.governs, strict=True):
            if alpha:
                pair = edit.transform(pair, alpha, self.carried, governs)
        return Moment(pair, reach)


@dataclass(frozen=True)
class Controller:
    """A source prompt and its edited branches."""

    source: Prompt
    branches: tuple[Branch, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The source prompt, then every edited prompt."""
        return (self.source, *(branch.edited for branch in self.branches))

    @property
    def length(self) -> int:
        """Tokens of the batch that holds all prompts: shorter ones are repeated up to it."""
        return lcm(*(prompt.length for prompt in self.prompts))

    def weights(self, progress: float) -> tuple[tuple[float, ...], ...]:
        """All that the branches' moments depend on; equal weights, equal moments."""
        return tuple(branch.weights(progress) for branch in self.branches)

    def at(self, progress: float, length: int) -> list[Moment]:
        """Every branch's moment, its pair made for a batch of `length` tokens.

        Raises `ValueError` if `length` is no multiple of the controller's own.
        """
        if length % self.length:
            raise ValueError(
                f"Expected a conditioning of a multiple of {self.length} tokens, got {length}. "
                "Give the sampler the controller's own conditioning, not one that was cut or "
                "joined afterwards."
            )
        moments: list[Moment] = []
        for branch in self.branches:
            moment = branch.at(progress)
            source, edited = length // self.source.length, length // branch.edited.length
            moments.append(Moment(moment.pair.tiled(source, edited), moment.self_reach))
        return moments


def plan(text: str, chains: Sequence[Chain], read: Callable[[str], Prompt]) -> Controller:
    """Resolve chains of edits against a source prompt; `read` tokenises a text.

    Raises `ValueError` for an empty source or edited prompt and for edits that do not fit the
    prompt.
    """
    source = read(text)
    if not source.words:
        raise ValueError(
            f"Expected a source prompt with words in it, got {text!r}. "
            "Describe the image to be edited."
        )
    return Controller(source, tuple(_branch(source, chain, read) for chain in chains))


def _branch(source: Prompt, chain: Chain, read: Callable[[str], Prompt]) -> Branch:
    draft, present = Draft.of(source.text), source
    for index, edit in enumerate(chain):
        draft = edit.rewrite(draft, present, index)
        present = read(draft.text)
        if not present.words:
            raise ValueError(
                f"The edits leave nothing of the prompt {source.text!r}. "
                "Keep at least one word: an edited prompt cannot be empty."
            )
    spans = align(draft, source, present)
    carried = mapper(source, present, spans)
    governs = tuple(governed_tokens(present, spans, carried, index) for index in range(len(chain)))
    return Branch(chain, present, spans, carried, governs)
