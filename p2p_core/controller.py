"""A run's plan: one source prompt, its edited branches, and the batch rows they are sampled in."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import lcm

import torch
from torch import Tensor

from .alignment import Draft, Span, align, mapper
from .blocks import UNDIVIDED
from .edits import AUTOMATIC, Aligned, Edit, Joint, MapEdit, Reach, SelfInjection
from .local_blend import LocalBlend
from .nouns import with_nouns
from .schedules import Schedule, Window
from .tokens import Prompt, shortened

Chain = tuple[Edit | LocalBlend, ...]
"""Edits in order, each changing the text that the one before it left; at most one local blend."""


class ChainError(ValueError):
    """What is wrong with a chain of edits, and with which one of them; both count from 0."""

    def __init__(self, message: str, chain: int = 0, link: int | None = None) -> None:
        super().__init__(message)
        self.chain, self.link = chain, link


@dataclass(frozen=True)
class Rows:
    """The rows of one sampling batch: the sources first, then each edit as a block of its own.

    Nothing else counts rows.

    >>> rows = Rows(sources=2, edits=1)
    >>> rows.of_sources(torch.tensor([5, 6])), rows.of_prompts(torch.tensor([5, 6]))
    (tensor([5, 6, 5, 6]), tensor([5, 5, 6, 6]))
    """

    sources: int
    edits: int
    known: bool = False
    """Whether the sources are known without the network: a call of it holds the edits' rows alone.

    >>> Rows(sources=2, edits=1, known=True).held(torch.tensor([5, 6, 7, 8]))
    tensor([7, 8])
    """

    @classmethod
    def continuing(cls, latents: int, edits: int) -> Rows:
        """Lay out a run that goes on with all rows that an earlier one returned.

        Raises `ValueError` for a number of `latents` that no such run has.
        """
        if latents % (1 + edits):
            raise ValueError(
                f"Expected latents of a source and {edits} edit(s) of each to go on from, got "
                f"{latents}. Give all that the run before returned."
            )
        return cls(latents // (1 + edits), edits)

    @property
    def prompts(self) -> int:
        """The number of rows of what has one per prompt: the source's, then each edit's."""
        return self.edits + (not self.known)

    @property
    def total(self) -> int:
        return self.sources * self.prompts

    @property
    def source_block(self) -> slice:
        return slice(0, 0 if self.known else self.sources)

    def block(self, branch: int) -> slice:
        """Select the rows of edited branch `branch`, counting from 0."""
        start = self.source_block.stop + branch * self.sources
        return slice(start, start + self.sources)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The sources' rows, then each branch's."""
        return (self.source_block, *(self.block(branch) for branch in range(self.edits)))

    def pairs(self, branch: int) -> Iterator[tuple[int, int]]:
        """Pair the rows of a branch with the sources': (edited row, its source row).

        Where sources are known nothing looks at them, and a row stands for its own.
        """
        own = self.block(branch)
        return zip(_counted(own), _counted(own if self.known else self.source_block), strict=True)

    def held(self, rows: Tensor) -> Tensor:
        """Cut the rows that it holds out of those of the batch with its sources."""
        return rows[self.sources :] if self.known else rows

    def of_sources(self, rows: Tensor) -> Tensor:
        """Repeat one row per source for its edits: [sources …] → [total …]."""
        return rows.repeat(self.prompts, *[1] * (rows.ndim - 1))

    def of_prompts(self, rows: Tensor) -> Tensor:
        """Repeat one row per prompt for each image of it: [prompts …] → [total …]."""
        return rows.repeat_interleave(self.sources, 0)

    def check_finite(self, latents: Tensor) -> None:
        """Raises `ValueError` for latents, float[rows …], that hold infinity or NaN."""
        names = ("the source", *(f"edit {n + 1}" for n in range(self.edits)))
        bad = [
            name
            for name, block in zip(names, self.blocks, strict=True)
            if not latents[block].isfinite().all()
        ]
        if bad:
            raise ValueError(
                f"Expected finite latents, got infinity or NaN in {' and '.join(bad)}. "
                + (
                    "The model's weights or the given latents are damaged, or its precision is "
                    "too low for this guidance scale: sample the source prompt alone to see."
                    if names[0] in bad
                    else "A word's factor is too large for the model's precision: "
                    "choose a smaller one."
                )
            )


def _counted(rows: slice) -> range:
    return range(rows.start, rows.stop)


@dataclass(frozen=True)
class Alone(Rows):
    """Rows of a run without sources: each is edited after itself."""

    @classmethod
    def of(cls, rows: int) -> Alone:
        return cls(rows, 0)

    def pairs(self, branch: int) -> Iterator[tuple[int, int]]:
        return ((n, n) for n in range(self.sources))


@dataclass(frozen=True)
class Moment:
    """What a branch does at one moment of sampling."""

    map_edit: MapEdit
    self_reaches: frozenset[Reach]
    """Self-attention is injected in layers up to the furthest of these; none: nowhere."""
    mode: str = AUTOMATIC
    """Of joint attention, see `edits.Joint`."""
    renormalised: bool | None = None
    """See `edits.Reweight`."""
    source_vector: bool = False
    """Whether the vector of the whole prompt is the source's now, see `edits.Joint`."""


@dataclass(frozen=True)
class Acting:
    """An edit of a branch, its words found: when it acts on which tokens."""

    edit: Edit
    words: Aligned
    windows: tuple[Window, ...]
    """Empty: as long as the branch's edits that hold."""
    follows: Tensor
    """int64[edited_tokens]: which of the windows each token follows."""

    def weights(self, progress: float) -> tuple[float, ...]:
        """Weigh each window at this progress."""
        return tuple(window.weight(progress) for window in self.windows)

    def alpha(self, progress: float) -> Tensor:
        """Say how much it acts on each token: float[edited_tokens] in 0–1."""
        return torch.tensor(self.weights(progress), dtype=torch.float64)[self.follows]


@dataclass(frozen=True)
class Branch:
    """One edited prompt: a chain resolved against the source prompt."""

    chain: Chain
    edited: Prompt
    spans: tuple[Span, ...]
    mapper: Tensor
    """float[source_tokens edited_tokens], see `alignment.mapper`."""
    acting: tuple[Acting, ...]
    """One for each edit of the chain."""
    injections: tuple[tuple[SelfInjection, Joint], ...]
    """Of its edits that inject self-attention, and where in a transformer they do."""
    blend: LocalBlend | None
    """With its words, the edits' own where it was given none."""

    @property
    def mode(self) -> str:
        """In joint attention, the one that its edits ask for."""
        asked = {a.edit.joint.mode for a in self.acting} - {AUTOMATIC}
        return asked.pop() if asked else AUTOMATIC

    @property
    def renormalised(self) -> bool | None:
        """What its edits say of factors on words, the first that says anything."""
        said = (getattr(a.edit, "renormalised", None) for a in self.acting)
        return next((one for one in said if one is not None), None)

    def weights(self, progress: float) -> tuple[float, ...]:
        """Collect all that a moment depends on: every window's weight, self-attention's last."""
        weights = [weight for acting in self.acting for weight in acting.weights(progress)]
        return (*weights, *(one.window.weight(progress) for one, _ in self.injections))

    def covered(self, block: int, kinds: Sequence[str]) -> tuple[bool, ...]:
        """Tell whether each of its edits acts in a transformer's block."""
        return tuple(a.edit.joint.blocks.covers(block, kinds) for a in self.acting)

    def at(self, progress: float, block: int = 0, kinds: Sequence[str] = UNDIVIDED) -> Moment:
        """Compute what the branch does at this progress of sampling, 0–1, in one of so many blocks.

        `kinds` are all blocks of a transformer in order; other networks have none to tell apart.
        Raises `ValueError` for an edit of blocks that there are not.
        """
        alphas = {n: a.alpha(progress) for n, a in enumerate(self.acting) if a.windows}
        holding = [alpha for n, alpha in alphas.items() if self.acting[n].words.held.any()]
        longest = torch.stack(holding).amax(0) if holding else torch.ones(self.mapper.shape[1])
        now = MapEdit.untouched(*self.mapper.shape)
        for n, acting in enumerate(self.acting):
            if acting.edit.joint.blocks.covers(block, kinds):
                now = acting.edit.transform(now, acting.words, alphas.get(n, longest))
        reaches = frozenset(
            one.reach
            for one, joint in self.injections
            if one.window.weight(progress) and joint.blocks.covers(block, kinds)
        )
        vector = any(
            joint.source_vector for one, joint in self.injections if one.window.weight(progress)
        )
        return Moment(now, reaches, self.mode, self.renormalised, vector)


@dataclass(frozen=True)
class Controller:
    """A source prompt and its edited branches."""

    source: Prompt
    branches: tuple[Branch, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The source prompt, then every edited prompt."""
        return (self.source, *(branch.edited for branch in self.branches))

    def __deepcopy__(self, memo: object) -> Controller:
        """Return itself, as it never changes: copies of a conditioning carry the same one."""
        return self

    @property
    def length(self) -> int:
        """Tokens of the batch that holds all prompts: shorter ones are repeated or padded to it."""
        lengths = [prompt.length for prompt in self.prompts]
        return lcm(*lengths) if self.repeats else max(lengths)

    @property
    def repeats(self) -> bool:
        """Whether shorter prompts are repeated; else they are padded with what is masked."""
        return all(prompt.repeats for prompt in self.prompts)

    def fitted(self, values: Tensor) -> Tensor:
        """Make a prompt's values, float[its tokens], as long as the batch's texts."""
        if self.repeats:
            return values.repeat(self.length // len(values))
        return torch.cat([values, values.new_zeros(self.length - len(values))])

    def weights(self, progress: float) -> tuple[tuple[float, ...], ...]:
        """Collect all that the branches' moments depend on; equal weights, equal moments."""
        return tuple(branch.weights(progress) for branch in self.branches)

    def needs_source(self, progress: float) -> bool:
        """Tell whether an edit looks at the source's attention at this progress, 0–1."""
        return any(any(weights) for weights in self.weights(progress))

    def covered(self, block: int, kinds: Sequence[str]) -> tuple[tuple[bool, ...], ...]:
        """Tell which edits of which branch act in a block; where as many do, moments are equal."""
        return tuple(branch.covered(block, kinds) for branch in self.branches)

    def at(
        self,
        progress: float,
        length: int,
        dtype: torch.dtype = torch.float32,
        block: int = 0,
        kinds: Sequence[str] = UNDIVIDED,
    ) -> list[Moment]:
        """Compute every branch's moment, its map edit for a batch of `length` tokens, in `dtype`.

        `block` and `kinds` as in `Branch.at`. Raises `ValueError` if `length` is no multiple of the
        controller's own.
        """
        if length % self.length or (length != self.length and not self.repeats):
            raise ValueError(
                f"Expected a conditioning of a multiple of {self.length} tokens, got {length}. "
                "Give the sampler the controller's own conditioning, not one that was cut or "
                "joined afterwards."
            )
        moments: list[Moment] = []
        for branch in self.branches:
            moment = branch.at(progress, block, kinds)
            now, ends = moment.map_edit, (self.source.length, branch.edited.length)
            long = (
                now.tiled(*(length // end for end in ends))
                if self.repeats
                else now.padded(*(length - end for end in ends))
            )
            moments.append(replace(moment, map_edit=long.to(dtype)))
        return moments


def plan(text: str, chains: Sequence[Chain], read: Callable[[str], Prompt]) -> Controller:
    """Resolve chains of edits against a source prompt; `read` tokenises a text.

    Raises `ValueError` for an empty source prompt, and as a `ChainError` for an empty edited prompt
    and for edits that do not fit the prompt.

    >>> from p2p_core.edits import WordSwap
    >>> from p2p_core.tokens import read_prompt
    >>> def read(text):  # a tokenizer that makes a token of every word
    ...     words = text.split()
    ...     return read_prompt(text, words, range(1, 1 + len(words)), 8, str.split)
    >>> controller = plan("a cat sits", [(WordSwap("cat", "big dog"),)], read)
    >>> [prompt.text for prompt in controller.prompts]
    ['a cat sits', 'a big dog sits']
    >>> (now,) = controller.at(progress=0.0, length=8)
    >>> now.map_edit.inject[2]  # the source's token 2, "cat", is looked at as "big" and "dog" are
    tensor([0.0000, 0.0000, 0.5000, 0.5000, 0.0000, 0.0000, 0.0000, 0.0000])
    """
    read = cache(read)
    source = read(text)
    if not source.words and not all(_is_whole(chain[0]) for chain in chains if chain):
        raise ValueError(
            f"Expected a source prompt with words in it, got {text!r}. Describe the image to be "
            "edited; without words, only a Refine can begin a chain, and everything in it is new."
        )
    return Controller(
        source, tuple(_branch(source, number, chain, read) for number, chain in enumerate(chains))
    )


def _is_whole(link: Edit | LocalBlend) -> bool:
    """Whether it brings a whole prompt, so that it needs no words to begin with."""
    return not isinstance(link, LocalBlend) and link.tokenwise


@contextmanager
def _of(chain: int, link: int) -> Generator[None]:
    """What is wrong in here is wrong with this link of this chain."""
    try:
        yield
    except ValueError as error:
        raise ChainError(str(error), chain, link) from error


def _branch(source: Prompt, number: int, chain: Chain, read: Callable[[str], Prompt]) -> Branch:
    places = [n for n, link in enumerate(chain) if not isinstance(link, LocalBlend)]
    edits = [link for link in chain if not isinstance(link, LocalBlend)]
    blends = [(n, link) for n, link in enumerate(chain) if isinstance(link, LocalBlend)]
    if not edits or len(blends) > 1:
        raise ChainError(
            f"Expected a chain of edits with at most one local blend, got {len(edits)} edit(s) and "
            f"{len(blends)} local blend(s). Start the chain with a Word Swap, Refine or Reweight, "
            "and write all words of its mask into one Local Blend Mask.",
            number,
        )
    draft, present = Draft.of(source.text), source
    for index, edit in enumerate(edits):
        with _of(number, places[index]):
            draft = edit.rewrite(draft, present, index, read)
            present = read(draft.text)
            if not present.words:
                raise ValueError(
                    f"The edits leave nothing of the prompt {shortened(source.text)!r}. "
                    "Keep at least one word: an edited prompt cannot be empty."
                )
    spans = align(draft, source, present, [n for n, edit in enumerate(edits) if edit.tokenwise])
    columns = mapper(source, present, spans)
    holding = [edit for edit in edits if edit.holds] or edits
    acting: list[Acting] = []
    for index, edit in enumerate(edits):
        held = _held(present, spans, columns, edit, index)
        if edit not in holding:
            held = torch.zeros_like(held)
        schedule = edit.schedule
        if schedule is None and edit in holding:
            schedule = Schedule()
        acts = held > 0
        with _of(number, places[index]):
            for phrase in edit.phrases:
                acts[present.tokens_of(phrase)] = True
            windows, follows = _windows(schedule, present, acts)
        words = Aligned(source, present, spans, columns, index, held)
        acting.append(Acting(edit, words, windows, follows))
    blend = None
    for place, given in blends:
        blend = _with_changes(given, source, present, spans, edits) if given.asks else given
        with _of(number, place):
            if blend is not None:
                blend.columns(source, present)
    modes = {edit.joint.mode for edit in edits} - {AUTOMATIC}
    if len(modes) > 1:
        raise ValueError(
            f"Expected edits of a chain that agree about joint attention, got "
            f"{' and '.join(sorted(modes))}. Set one of them to {AUTOMATIC}."
        )
    injections = tuple((edit.self_injection, edit.joint) for edit in holding)
    return Branch(chain, present, spans, columns, tuple(acting), injections, blend)


def _with_changes(
    blend: LocalBlend, source: Prompt, edited: Prompt, spans: Sequence[Span], edits: Sequence[Edit]
) -> LocalBlend | None:
    """A local blend of the words that edits change, and of the nouns that they stand by.

    None where they change none, and so nothing.
    """
    changed = [span for span in spans if span.kind != "kept"]
    phrases = [phrase for edit in edits for phrase in edit.phrases]
    acted = [phrase for phrase in phrases if phrase in source]
    ends = (
        [span.source[-1] for span in changed if span.source] + _ends(source, acted),
        [span.edited[-1] for span in changed if span.edited] + _ends(edited, phrases),
    )
    nouns = [
        [prompt.name(range(noun, noun + 1)) for noun in some]
        for prompt, some in zip(
            (source, edited), with_nouns(ends, source, edited, spans), strict=True
        )
    ]
    words = (
        [source.name(span.source) for span in changed] + acted + nouns[0],
        [edited.name(span.edited) for span in changed] + phrases + nouns[1],
    )
    own, other = (tuple(dict.fromkeys(name for name in names if name)) for names in words)
    return replace(blend, source_words=own, edited_words=other) if own or other else None


def _ends(prompt: Prompt, phrases: Sequence[str]) -> list[int]:
    """Find the last word of each run of words that phrases name: indices."""
    tokens = {token for phrase in phrases for token in prompt.tokens_of(phrase)}
    named = [n for n, word in enumerate(prompt.words) if tokens & {*word.tokens}]
    return [n for n in named if n + 1 not in named]


def _held(edited: Prompt, spans: Sequence[Span], columns: Tensor, edit: Edit, index: int) -> Tensor:
    """Which tokens take the source's attention by an edit, see `edits.Aligned.held`."""
    held = (columns.sum(0) > 0).float()
    for span in spans:
        if span.edit is not None and not (span.edit == index and edit.injects(span)):
            for j in span.edited:
                held[list(edited.words[j].tokens)] = 0.0
    return held


def _windows(
    schedule: Schedule | None, edited: Prompt, acts: Tensor
) -> tuple[tuple[Window, ...], Tensor]:
    """A schedule's windows, and which of them each token follows.

    `acts`, bool[edited_tokens], are those that the edit acts on. Raises `ValueError` for a word's
    window that none of them follows.
    """
    follows = torch.zeros(edited.length, dtype=torch.int64)
    if schedule is None:
        return (), follows
    for number, (phrase, _) in enumerate(schedule.words, 1):
        follows[edited.tokens_of(phrase)] = number
    for number, (phrase, _) in enumerate(schedule.words, 1):
        if not (acts & (follows == number)).any():
            raise ValueError(
                f"Expected windows for words that the edit acts on, got one for {phrase!r}, which "
                "it does not: it takes no attention of the source, another edit wrote it, or a "
                "later window covers it. Leave this window out, or give it to the edit that acts "
                "on the word."
            )
    return (schedule.window, *(window for _, window in schedule.words)), follows
