"""What edits would make of a prompt, as data: told while someone writes, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from .alignment import Draft, Span
from .controller import Chain, ChainError, plan
from .local_blend import LocalBlend
from .tokens import NotInPrompt, Prompt


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a chain of edits, in a sentence."""

    link: int | None
    """Its place in the chain, from 0; None: of the chain as a whole."""
    message: str
    phrase: str = ""
    """The words that the prompt lacks, if that is what is wrong."""
    nearest: str = ""
    """The prompt's words that are most like them, if any."""

    @classmethod
    def of(cls, error: ValueError, link: int | None) -> Mistake:
        """Make one of an error, and of the phrase that it names."""
        cause = error.__cause__ or error
        if isinstance(cause, NotInPrompt):
            return cls(link, str(error), cause.phrase, cause.nearest or "")
        return cls(link, str(error))


@dataclass(frozen=True)
class Preview:
    """One chain of edits, resolved as far as it goes."""

    edited: Prompt
    spans: tuple[Span, ...]
    """Name edits by their places in the chain, local blends and mistaken links counted."""
    before: tuple[Prompt, ...]
    """The prompt that each link finds."""
    mistakes: tuple[Mistake, ...]


def preview(source: Prompt, chain: Chain, read: Callable[[str], Prompt]) -> Preview:
    """Resolve a chain as a run would, leaving out the links that a run would refuse.

    Args:
        source: the source prompt.
        chain: edits in order, with at most one local blend among them.
        read: tokenises a text, as for `controller.plan`.

    Returns:
        The edited prompt, its alignment with the source, and a mistake for each link left out.

    >>> from p2p_core.edits import WordSwap
    >>> from p2p_core.tokens import read_prompt
    >>> def read(text):  # a tokenizer that makes a token of every word
    ...     words = text.split()
    ...     return read_prompt(text, words, range(1, 1 + len(words)), 8, str.split)
    >>> chain = (WordSwap("cet", "dog"), WordSwap("sits", "sleeps"))
    >>> told = preview(read("a cat sits"), chain, read)
    >>> told.edited.text, told.mistakes[0].nearest
    ('a cat sleeps', 'cat')
    """
    read = cache(read)
    places, mistakes = list(range(len(chain))), list[Mistake]()
    branch = None
    while branch is None and any(not isinstance(chain[n], LocalBlend) for n in places):
        try:
            branch = plan(source.text, [tuple(chain[n] for n in places)], read).branches[0]
        except ChainError as error:
            if error.link is None:
                mistakes.append(Mistake.of(error, None))
                break
            mistakes.append(Mistake.of(error, places.pop(error.link)))
        except ValueError as error:
            mistakes.append(Mistake.of(error, None))
            break
    good = places if branch is not None else []
    before = _before(source, chain, good, read)
    if branch is None:
        kept = tuple(Span(range(n, n + 1), range(n, n + 1), None) for n in range(len(source.words)))
        return Preview(source, kept, before, tuple(mistakes))
    edits = [n for n in good if not isinstance(chain[n], LocalBlend)]
    spans = tuple(
        Span(s.source, s.edited, None if s.edit is None else edits[s.edit], s.tokenwise)
        for s in branch.spans
    )
    return Preview(branch.edited, spans, before, tuple(mistakes))


def _before(
    source: Prompt, chain: Chain, good: Sequence[int], read: Callable[[str], Prompt]
) -> tuple[Prompt, ...]:
    """The prompt that each link of a chain finds, mistaken ones having changed nothing."""
    draft, found = Draft.of(source.text), list[Prompt]()
    index = 0
    for n, link in enumerate(chain):
        present = read(draft.text)
        found.append(present)
        if n in good and not isinstance(link, LocalBlend):
            draft = link.rewrite(draft, present, index, read)
            index += 1
    return tuple(found)


def lacking(phrases: Sequence[str], prompts: Sequence[Prompt]) -> list[Mistake]:
    """Find the phrases that are in none of the prompts: a mistake for each, without a link.

    Raises no error: a phrase that is no phrase is a mistake, too.
    """
    found: list[Mistake] = []
    for phrase in phrases:
        errors: list[ValueError] = []
        for prompt in prompts:
            try:
                prompt.tokens_of(phrase)
            except ValueError as error:
                errors.append(error)
        if prompts and len(errors) == len(prompts):
            best = [e for e in errors if isinstance(e, NotInPrompt) and e.nearest]
            found.append(Mistake.of((best or errors)[0], None))
    return found


def words_of(prompt: Prompt) -> list[dict[str, object]]:
    """Tell a prompt's words as data: text, place in the prompt, and what edits call each.

    >>> from p2p_core.tokens import read_prompt
    >>> prompt = read_prompt("a cat, a dog", ["a", "cat", ",", "a", "dog"], range(5), 5,
    ...                      lambda text: text.replace(",", " ,").split())
    >>> [word["name"] for word in words_of(prompt)]
    ['a #1', 'cat', '', 'a #2', 'dog']
    """
    return [
        {
            "text": word.text,
            "start": word.start,
            "end": word.end,
            "name": prompt.name(range(n, n + 1)),
        }
        for n, word in enumerate(prompt.words)
    ]


def spans_of(source: Prompt, edited: Prompt, spans: Sequence[Span]) -> list[dict[str, object]]:
    """Tell an alignment as data: of each span its kind, its words on both sides, and its edit."""
    return [
        {
            "kind": span.kind,
            "source": [source.words[i].text for i in span.source],
            "edited": [edited.words[j].text for j in span.edited],
            "source_at": [span.source.start, span.source.stop],
            "edited_at": [span.edited.start, span.edited.stop],
            "edit": span.edit,
        }
        for span in spans
    ]
