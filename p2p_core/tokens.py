"""Words of a prompt and the tokens they became, for any tokenizer and any number of chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECE = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]+|_+")
"""A word with its inner apostrophes and hyphens, or a run of punctuation."""

_NUMBERED = re.compile(r"(?P<phrase>.+?)\s*#\s*(?P<number>\d+)")
"""A phrase and which of its occurrences is meant."""


@dataclass(frozen=True)
class Word:
    """One word as written.

    Its characters `text[start:end]` of the prompt, its positions among the tokens, and the ids that
    the tokenizer gave it there.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]
    ids: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt as written, its words in order, and the length of its token sequence.

    Positions that no word names are special tokens: start, end and padding of every chunk.
    """

    text: str
    words: tuple[Word, ...]
    length: int

    def find(self, phrase: str, occurrence: int = 1) -> range:
        """Indices of the words that spell `phrase`, whatever their case.

        `occurrence` counts from 1.
        Raises `ValueError` naming the prompt's words where the phrase is not there, or not that
        often.
        """
        found = self._occurrences(phrase)
        if not 1 <= occurrence <= len(found):
            raise ValueError(
                f"{phrase!r} occurs {len(found)} time(s) in the prompt {self.text!r}, "
                f"but occurrence {occurrence} was asked for. Choose 1 to {len(found)}."
            )
        return found[occurrence - 1]

    def __contains__(self, phrase: str) -> bool:
        """Whether `tokens_of` finds a phrase."""
        try:
            return bool(self.tokens_of(phrase))
        except ValueError:
            return False

    def tokens_of(self, phrase: str) -> list[int]:
        """Positions of the tokens of every occurrence of `phrase`; of "phrase #2", the second's.

        Raises `ValueError` as `find` does.
        """
        numbered = _NUMBERED.fullmatch(phrase.strip())
        if numbered and not self._spelled(split_words(phrase)):  # a prompt may say "room #5" itself
            found = [self.find(numbered["phrase"], int(numbered["number"]))]
        else:
            found = self._occurrences(phrase)
        return sorted({t for words in found for i in words for t in self.words[i].tokens})

    def _occurrences(self, phrase: str) -> list[range]:
        wanted = split_words(phrase)
        if not wanted:
            raise ValueError(f"Expected a word of the prompt, got {phrase!r}. {self._vocabulary()}")
        found = self._spelled(wanted)
        if not found:
            raise ValueError(f"{phrase!r} is not in the prompt {self.text!r}. {self._vocabulary()}")
        return found

    def _spelled(self, words: Sequence[str]) -> list[range]:
        wanted = [word.casefold() for word in words]
        here, size = [word.text.casefold() for word in self.words], len(wanted)
        starts = range(len(here) - size + 1)
        return [range(i, i + size) for i in starts if here[i : i + size] == wanted]

    def _vocabulary(self) -> str:
        return "Its words are: " + ", ".join(word.text for word in self.words) + "."


def split_words(text: str) -> list[str]:
    """The words and runs of punctuation of a text, in order."""
    return _PIECE.findall(text)


def find_words(text: str) -> list[tuple[str, int, int]]:
    """`split_words` with where they stand: (word, start, end) in characters."""
    return [(piece.group(), piece.start(), piece.end()) for piece in _PIECE.finditer(text)]


def read_prompt(
    text: str,
    content: Sequence[Hashable],
    positions: Sequence[int],
    length: int,
    tokenise: Callable[[str], Sequence[Hashable]],
) -> Prompt:
    """Find which tokens every word became.

    `content` are the token ids of the whole text without special tokens and `positions` their
    places in the encoded sequence of `length` tokens; `tokenise` gives the ids of a text by itself.
    Words are tokenised one by one and matched with `content`; what the tokenizer swallowed (weights
    and their brackets) has no tokens and is dropped, and what it made of a word only in its context
    goes to the word that stands there. Every token ends up in one word.

    Raises `ValueError` if `content` and `positions` differ in length.
    """
    if len(content) != len(positions):
        raise ValueError(
            f"Expected a position for each of the {len(content)} tokens, got {len(positions)}. "
            "Pass the positions of the text's own tokens, special tokens left out."
        )
    pieces = find_words(text)
    alone: list[Hashable] = []
    owner: list[int] = []
    for index, piece in enumerate(pieces):
        tokens = tokenise(piece[0])
        alone.extend(tokens)
        owner.extend([index] * len(tokens))
    spans: list[list[tuple[int, Hashable]]] = [[] for _ in pieces]
    last = 0
    for tag, a0, a1, b0, b1 in SequenceMatcher(a=alone, b=content, autojunk=False).get_opcodes():
        for b in range(b0, b1):
            if tag == "equal":
                last = owner[a0 + b - b0]
            elif tag == "replace":
                last = max(last, owner[min(a0 + b - b0, a1 - 1)])
            if spans:
                spans[last].append((positions[b], content[b]))
    words = tuple(
        Word(
            *piece,
            tuple(position for position, _ in span),
            tuple(token for _, token in span),
        )
        for piece, span in zip(pieces, spans, strict=True)
        if span
    )
    if (
        content and not words
    ):  # nothing that looks like a word, yet the tokenizer made something of it
        words = (Word(text, 0, len(text), tuple(positions), tuple(content)),)
    return Prompt(text, words, length)
