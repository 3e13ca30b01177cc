"""Which noun a changed word stands by, found without a model of the language.

In "a red circle on the grass" a new colour concerns the circle: a noun closes the run of words that
an adjective begins, and what follows a noun is punctuation, or one of a few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import punctuation

from .alignment import Span
from .tokens import Prompt

AFTER_NOUNS = frozenset(
    word
    for words in (
        "a an the this that these those its his her their my your our some any no each every",
        "and or but nor with without of on in at by to into onto from for over under above below",
        "behind before beside besides between near next among against around across along through",
        "during inside outside upon off up down as like than while when where who which whose",
        "is are was were be being been am has have had does do did can will",
        "sits sitting sat stands standing stood lies lying lays laying runs running walks walking",
        "flies flying sleeps sleeping jumps jumping wears wearing holds holding looks looking",
        "plays playing eats eating rides riding made covered surrounded filled",
    )
    for word in words.split()
)
"""Words that end a run of adjectives and their noun, and the verbs that prompts have most."""


def noun_after(prompt: Prompt, word: int) -> int | None:
    """Find the noun that a word is said of: the last word of the run behind it, if there is one.

    >>> from p2p_core.tokens import read_prompt
    >>> text = "a red circle on the grass"
    >>> noun_after(read_prompt(text, text.split(), range(1, 7), 8, str.split), 1)
    2
    """
    found = None
    for index in range(word + 1, len(prompt.words)):
        text = prompt.words[index].text
        if text.casefold() in AFTER_NOUNS or all(character in punctuation for character in text):
            break
        found = index
    return found


def with_nouns(
    words: tuple[Sequence[int], Sequence[int]],
    source: Prompt,
    edited: Prompt,
    spans: Sequence[Span],
) -> tuple[list[int], list[int]]:
    """Find the nouns that words of source and edited prompt stand by, in each: indices of words.

    `words` are the last of each run that changes. A noun that both prompts have stands for itself
    in the other, too.
    """
    kept = [
        (i, j) for s in spans if s.kind == "kept" for i, j in zip(s.source, s.edited, strict=True)
    ]
    found = [
        {noun for word in some if (noun := noun_after(prompt, word)) is not None}
        for some, prompt in zip(words, (source, edited), strict=True)
    ]
    own = found[0] | {i for i, j in kept if j in found[1]}
    other = found[1] | {j for i, j in kept if i in found[0]}
    return sorted(own), sorted(other)
