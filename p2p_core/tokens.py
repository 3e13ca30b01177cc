"""Words of a prompt and the tokens they became, for any tokenizer and any number of chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECE = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]+|_+")
"""A word with its inner apostrophes and hyphens, or a run of punctuation."""


@dataclass(frozen=True)
class Word:
    """One word as written.

    Its characters `text[start:end]` of the prompt, its positions among the tokens.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]


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
        wanted = [piece.casefold() for piece in split_words(phrase)]
        if not wanted:
            raise ValueError(f"Expected a word of the prompt, got {phrase!r}. {self._vocabulary()}")
        here = [word.text.casefold() for word in self.words]
        found = [
            i for i in range(len(here) - len(wanted) + 1) if here[i : i + len(wanted)] == wanted
        ]
        if not found:
            raise ValueError(f"{phrase!r} is not in the prompt {self.text!r}. {self._vocabulary()}")
        if not 1 <= occurrence <= len(found):
            raise ValueError(
                f"{phrase!r} occurs {len(found)} time(s) in the prompt {self.text!r}, "
                f"but occurrence {occurrence} was asked for. Choose 1 to {len(found)}."
            )
        return range(found[occurrence - 1], found[occurrence - 1] + len(wanted))

    def _vocabulary(self) -> str:
        return "Its words are: " + ", ".join(word.text for word in self.words) + "."


def split_words(text: str) -> list[str]:
    """The words and runs of punctuation of a text, in order."""
    return _PIECE.findall(text)


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
    pieces = list(_PIECE.finditer(text))
    alone: list[Hashable] = []
    owner: list[int] = []
    for index, piece in enumerate(pieces):
        tokens = tokenise(piece.group())
        alone.extend(tokens)
        owner.extend([index] * len(tokens))
    spans: list[list[int]] = [[] for _ in pieces]
    last = 0
    for tag, a0, a1, b0, b1 in SequenceMatcher(a=alone, b=content, autojunk=False).get_opcodes():
        for b in range(b0, b1):
            if tag == "equal":
                last = owner[a0 + b - b0]
            elif tag == "replace":
                last = max(last, owner[min(a0 + b - b0, a1 - 1)])
            if spans:
                spans[last].append(positions[b])
    words = tuple(
        Word(piece.group(), piece.start(), piece.end(), tuple(span))
        for piece, span in zip(pieces, spans, strict=True)
        if span
    )
    if (
        content and not words
    ):  # nothing that looks like a word, yet the tokenizer made something of it
        words = (Word(text, 0, len(text), tuple(positions)),)
    return Prompt(text, words, length)
