"""Words of a prompt and the tokens they became, for any tokenizer and any number of chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property
from itertools import accumulate, pairwise, takewhile
from string import punctuation

from .matching import matching

_PIECE = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]+|_+")
"""A word with its inner apostrophes and hyphens, or a run of punctuation."""

_BLOB = re.compile(r"\s*\S+")
"""What no tokenizer reads further than: text up to the next white space, with that before it."""

MOST_CHARACTERS, LONGEST_WORD, MOST_TOKENS = 20_000, 1_000, 2_048
"""Of a prompt: what is made of its tokens grows with their square, and that of a word's letters."""

SHOWN_CHARACTERS, SHOWN_WORDS = 60, 20
"""Of a prompt, in a message."""


@dataclass(frozen=True)
class Segment:
    """Text of a prompt that the tokenizer reads in one go, with what it drops taken away.

    Character n of it stands for the characters `at[n]:at[n + 1]` of the prompt.
    """

    text: str
    at: Sequence[int]
    """One more than there are characters."""

    @classmethod
    def whole(cls, text: str) -> Segment:
        """Make one segment of a prompt in which nothing is dropped."""
        return cls(text, range(len(text) + 1))


class NotInPrompt(ValueError):
    """A phrase that a prompt lacks, and its words most like it, where there are any."""

    def __init__(self, message: str, phrase: str, nearest: str | None) -> None:
        super().__init__(message)
        self.phrase, self.nearest = phrase, nearest


@dataclass(frozen=True)
class Word:
    """One word as written, and its tokens.

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
    brackets: tuple[range, ...] = ()
    """Characters of every pair of brackets that weighs the words in it, its weight included."""
    sequences: tuple[range, ...] = ()
    """Positions of each of several encoders' tokens, one after the other; none: of one."""
    repeats: bool = True
    """Whether a host repeats it to the length of another, or pads it."""
    front: int = 0
    """Tokens before those of its encoder that do nothing but fill it up."""

    def shifted(self, by: int) -> Prompt:
        """The same words, so many tokens later."""
        words = (replace(word, tokens=tuple(t + by for t in word.tokens)) for word in self.words)
        return replace(self, words=tuple(words))

    def behind(self, tokens: int) -> Prompt:
        """The prompt of one encoder behind so many tokens of no word, a sequence of their own."""
        length = tokens + self.length
        ends = (range(tokens), range(tokens, length))
        return replace(self.shifted(tokens), length=length, sequences=ends, front=tokens)

    @property
    def parts(self) -> tuple[Prompt, ...]:
        """As each of its encoders sees it."""
        if not self.sequences:
            return (self,)
        return tuple(
            replace(
                self,
                words=tuple(
                    replace(
                        word,
                        tokens=tuple(t - own.start for t in word.tokens if t in own),
                        ids=tuple(
                            one for t, one in zip(word.tokens, word.ids, strict=True) if t in own
                        ),
                    )
                    for word in self.words
                ),
                length=len(own),
                sequences=(),
            )
            for own in self.sequences
        )

    @classmethod
    def joined(cls, parts: Sequence[Prompt]) -> Prompt:
        """One prompt as several encoders see it, whose tokens stand one after the other.

        Raises `ValueError` where they see other words.
        """
        first, starts = parts[0], [*accumulate((part.length for part in parts), initial=0)]
        spelled = {tuple((word.start, word.end) for word in part.words) for part in parts}
        if len(spelled) > 1:
            raise ValueError(
                f"Expected tokenizers that agree on the words of {shortened(first.text)!r}, got "
                "such that do not. Write words apart, and leave embeddings out."
            )
        words = [
            replace(
                some[0],
                tokens=tuple(
                    t + start
                    for word, start in zip(some, starts, strict=False)
                    for t in word.tokens
                ),
                ids=tuple(one for word in some for one in word.ids),
            )
            for some in zip(*(part.words for part in parts), strict=True)
        ]
        ends = [range(a, b) for a, b in pairwise(starts)]
        return replace(
            first,
            words=tuple(words),
            length=starts[-1],
            sequences=tuple(ends) if len(parts) > 1 else (),
            repeats=all(part.repeats for part in parts),
        )

    def find(self, phrase: str, occurrence: int = 1) -> range:
        """Find the words that spell `phrase`, whatever their case: their indices.

        `occurrence` counts from 1; "phrase #2" is the second as well.
        Raises `ValueError` where the phrase is not there, naming the words most like it or the
        prompt's, or not that often, and for two different numbers.
        """
        phrase, number = self._numbered(phrase)
        if number is not None and occurrence not in (1, number):
            raise ValueError(
                f"Expected one number for the occurrence of {phrase!r}, got #{number} and "
                f"{occurrence}. Leave one of them out."
            )
        return self._nth(phrase, occurrence if number is None else number)

    def _nth(self, phrase: str, occurrence: int) -> range:
        """One of a phrase's occurrences; raises as `find` does."""
        found = self._occurrences(phrase)
        if not 1 <= occurrence <= len(found):
            raise ValueError(
                f"{phrase!r} occurs {len(found)} time(s) in the prompt {shortened(self.text)!r}, "
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
        """Find the tokens of every occurrence of `phrase`; of "phrase #2", the second's: positions.

        Raises `ValueError` as `find` does.

        >>> text = "a cat and a dog"
        >>> prompt = read_prompt(text, text.split(), range(1, 6), 7, str.split)
        >>> prompt.tokens_of("a"), prompt.tokens_of("a #2"), prompt.tokens_of("A Dog")
        ([1, 4], [4], [4, 5])
        """
        phrase, number = self._numbered(phrase)
        found = self._occurrences(phrase) if number is None else [self._nth(phrase, number)]
        return sorted({t for words in found for i in words for t in self.words[i].tokens})

    def name(self, words: range) -> str:
        """Name some words of it: "big cat", or "cat #2" where there are several.

        Punctuation around them is left out; where there is nothing else, so is the name.
        """
        said = [i for i in words if not all(c in punctuation for c in self.words[i].text)]
        if not said:
            return ""
        words = range(said[0], said[-1] + 1)
        phrase = " ".join(self.words[i].text for i in words)
        found = self._spelled(split_words(phrase))
        return phrase if len(found) < 2 else f"{phrase} #{found.index(words) + 1}"

    def place(self, words: range, emptied: bool = False) -> range:
        """Find the characters that some words of it take up, to be written over.

        `emptied`: nothing will stand there, so brackets that hold no other word go with them: the
        weight of none would be read as text. Raises `ValueError` for words that brackets divide.
        """
        start, end = self.words[words[0]].start, self.words[words[-1]].end
        for bracket in sorted(self.brackets, key=len):
            if bracket.start < start and end < bracket.stop:
                held = [n for n, word in enumerate(self.words) if word.start in bracket]
                if emptied and held == list(words):
                    start, end = bracket.start, bracket.stop
            elif (start in bracket) != (end - 1 in bracket):
                raise ValueError(
                    f"Expected words under one weight, got {self.text[start:end]!r}, which "
                    f"{self.text[bracket.start : bracket.stop]!r} divides. Swap the words inside "
                    "and outside of the brackets one after the other."
                )
        return range(start, end)

    def divided(self, place: range) -> tuple[list[str], list[str]]:
        """Divide the words into those around some characters and those that stand there."""
        around, there = list[str](), list[str]()
        for word in self.words:
            some = there if word.start < place.stop and place.start < word.end else around
            some += split_words(word.text)
        return around, there

    def _occurrences(self, phrase: str) -> list[range]:
        wanted = split_words(phrase)
        if not wanted:
            raise ValueError(f"Expected a word of the prompt, got {phrase!r}. {self._vocabulary()}")
        found = self._spelled(wanted)
        if not found:
            near = self.nearest(phrase)
            raise NotInPrompt(
                f"{shortened(phrase)!r} is not in the prompt. Did you mean {near!r}?"
                if near
                else f"{shortened(phrase)!r} is not in the prompt {shortened(self.text)!r}. "
                + self._vocabulary(),
                phrase,
                near,
            )
        return found

    def _numbered(self, phrase: str) -> tuple[str, int | None]:
        """ "phrase #2" as the phrase and its number; a prompt may say "room #5" itself."""
        before, _, number = (part.strip() for part in phrase.rpartition("#"))
        if before and number.isdecimal() and not self._spelled(split_words(phrase)):
            return before, int(number)
        return phrase, None

    def nearest(self, phrase: str) -> str | None:
        """Find the prompt's words that are spelled most like a phrase it lacks, if any.

        What stands beside letters (a comma, brackets, a weight) was not meant as a word.
        """
        pieces = split_words(phrase)
        wanted = [piece for piece in pieces if any(map(str.isalpha, piece))] or pieces
        runs: dict[str, str] = {}
        for size in range(1, len(wanted) + 1):
            for i in range(len(self.words) - size + 1):
                run = " ".join(word.text for word in self.words[i : i + size])
                runs.setdefault(run.casefold(), run)
        near = get_close_matches(" ".join(wanted).casefold(), runs, n=1)
        return runs[near[0]] if near else None

    @cached_property
    def _pieces(self) -> tuple[list[str], list[int]]:
        """The pieces of all words, and which word each belongs to: some have several."""
        pieces = [
            (piece.casefold(), n)
            for n, word in enumerate(self.words)
            for piece in split_words(word.text)
        ]
        return [piece for piece, _ in pieces], [n for _, n in pieces]

    def _spelled(self, words: Sequence[str]) -> list[range]:
        (here, owner), size = self._pieces, len(words)
        wanted = [word.casefold() for word in words]
        starts = (i for i in range(len(here) - size + 1) if here[i : i + size] == wanted)
        return list(dict.fromkeys(range(owner[i], owner[i + size - 1] + 1) for i in starts))

    def _vocabulary(self) -> str:
        words = [word.text for word in self.words]
        more = f", … ({len(words)} in all)" if len(words) > SHOWN_WORDS else ""
        return f"Its words are: {', '.join(words[:SHOWN_WORDS])}{more}."


def shortened(text: str) -> str:
    """Cut a text to its beginning, as much as a message has room for.

    >>> shortened("a red circle on the grass")
    'a red circle on the grass'
    """
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return text[: SHOWN_CHARACTERS - 2].rpartition(" ")[0] + " …"


def parted(text: str, other: str, around: int = 2) -> tuple[str, str]:
    """Cut out where two texts differ, with some words around it, of either.

    >>> parted("a photo of a red circle on the grass", "a photo of a blue star on the grass")
    ('… of a red circle on the …', '… of a blue star on the …')
    """
    ours, theirs = text.split(), other.split()
    head = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))))
    rest = zip(ours[head:][::-1], theirs[head:][::-1], strict=False)
    tail = len(list(takewhile(lambda pair: pair[0] == pair[1], rest)))

    def part(words: list[str]) -> str:
        start, end = max(head - around, 0), min(len(words) - tail + around, len(words))
        before, after = "… " if start else "", " …" if end < len(words) else ""
        return shortened(before + " ".join(words[start:end]) + after)

    return part(ours), part(theirs)


def split_words(text: str) -> list[str]:
    """Split a text into its words and runs of punctuation, in order.

    >>> split_words("the cat's sun-lit hat, (red)!")
    ['the', "cat's", 'sun-lit', 'hat', ',', '(', 'red', ')!']
    """
    return _PIECE.findall(text)


def check_size(text: str) -> None:
    """Raises `ValueError` for a text that is not to be tokenised: it would take minutes."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"Expected a prompt of at most {MOST_CHARACTERS} characters, got {len(text)}. "
            "Shorten it."
        )
    longest = max(split_words(text), key=len, default="")
    if len(longest) > LONGEST_WORD:
        raise ValueError(
            f"Expected words of at most {LONGEST_WORD} letters, got one of {len(longest)}: "
            f"{longest[:20]!r}…. Shorten it."
        )


def read_prompt(
    text: str,
    content: Sequence[Hashable],
    positions: Sequence[int],
    length: int,
    tokenise: Callable[[str], Sequence[Hashable]],
    segments: Sequence[Segment] | None = None,
    brackets: Sequence[range] = (),
) -> Prompt:
    """Find which tokens every word became.

    `content` are the token ids of the whole text without special tokens and `positions` their
    places in the encoded sequence of `length` tokens; `tokenise` gives the ids of a text by itself.
    `segments` are what the tokenizer reads of the text, in order (all of it, if it drops nothing),
    and `brackets` the characters of each pair that weighs words.

    What stands between white space is tokenised by itself, and the words in it; their tokens, one
    after the other, are the text's. Where they are not, words that the tokenizer makes one thing of
    (an embedding's name, say) are one word, and what became no token is no word. Every token ends
    up in one word.

    Raises `ValueError` if `content` and `positions` differ in length, and for more than
    `MOST_TOKENS` tokens.

    With a tokenizer that cuts words every three letters, and a start and an end token around them:

    >>> def tokenise(text):
    ...     return [word[n : n + 3] for word in text.split() for n in range(0, len(word), 3)]
    >>> prompt = read_prompt("a mouse", tokenise("a mouse"), [1, 2, 3], 5, tokenise)
    >>> prompt.words[1]
    Word(text='mouse', start=2, end=7, tokens=(2, 3), ids=('mou', 'se'))
    """
    if len(content) != len(positions):
        raise ValueError(
            f"Expected a position for each of the {len(content)} tokens, got {len(positions)}. "
            "Pass the positions of the text's own tokens, special tokens left out."
        )
    if length > MOST_TOKENS:
        raise ValueError(
            f"Expected a prompt of at most {MOST_TOKENS} tokens, got {length}. Shorten it."
        )

    @cache
    def alone(part: str) -> tuple[Hashable, ...]:
        return tuple(tokenise(part))

    blobs = [
        (segment, blob)
        for segment in ([Segment.whole(text)] if segments is None else segments)
        for blob in _BLOB.finditer(segment.text.rstrip())
    ]
    words: list[Word] = []
    for some, theirs in _blocks([alone(blob.group()) for _, blob in blobs], content):
        ids, places = content[theirs.start : theirs.stop], positions[theirs.start : theirs.stop]
        parts = [part for n in some for part in _parts(*blobs[n])]
        for joined, own in _blocks([alone(part) for part, _, _ in parts], ids):
            if own:
                start, end = parts[joined[0]][1], parts[joined[-1]][2]
                tokens = tuple(places[n] for n in own)
                words.append(Word(text[start:end], start, end, tokens, tuple(ids[n] for n in own)))
    if content and not words:  # nothing but white space, yet the tokenizer made something of it
        words.append(Word(text, 0, len(text), tuple(positions), tuple(content)))
    return Prompt(text, tuple(words), length, tuple(brackets))


def _parts(segment: Segment, blob: re.Match[str]) -> list[tuple[str, int, int]]:
    """The words of a blob, together all of it: text, and start and end in the prompt."""
    found = list(_PIECE.finditer(segment.text, blob.start(), blob.end()))
    ends = [blob.start(), *(piece.end() for piece in found)]
    return [
        (segment.text[before:end], segment.at[piece.start()], segment.at[end])
        for piece, (before, end) in zip(found, pairwise(ends), strict=True)
    ]


def _blocks(
    parts: Sequence[Sequence[Hashable]], content: Sequence[Hashable]
) -> list[tuple[range, range]]:
    """Which parts of a text its tokens belong to: (parts, tokens), in order, all tokens covered.

    `parts` are the tokens of each part by itself. Those that are found as they are stand alone;
    parts between them go together, with all tokens that are there.
    """
    flat = [token for part in parts for token in part]
    exact = flat == list(content)
    places = {i: i for i in range(len(flat))} if exact else dict(matching(flat, content))
    found: list[tuple[int, int, int]] = []
    for n, (a, b) in enumerate(pairwise(accumulate(map(len, parts), initial=0))):
        here = [places.get(i) for i in range(a, b)]
        if here and here[0] is not None and here == list(range(here[0], here[0] + b - a)):
            found.append((n, here[0], b - a))
    blocks: list[tuple[range, range]] = []
    part = token = 0
    for n, at, size in [*found, (len(parts), len(content), 0)]:
        if part < n:
            blocks.append((range(part, n), range(token, at)))
            token = at
        elif blocks:  # what the tokenizer added between two parts is the first one's
            blocks[-1] = blocks[-1][0], range(blocks[-1][1].start, at)
            token = at
        if n < len(parts):
            blocks.append((range(n, n + 1), range(token, at + size)))
            part, token = n + 1, at + size
    return blocks
