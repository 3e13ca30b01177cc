"""Words of a prompt and their tokens, as the host's CLIP sees them: its weights, its escapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from comfy.sd1_clip import escape_important, parse_parentheses, unescape_important
from torch import Tensor

from ...tokens import Prompt, Segment, check_size, read_prompt
from .texts import FILLED, FILLED_IN_FRONT, IDS_KEY, LLAMA_KEY

BESIDE = {"byt5": ("byt5",), "llama": ("l",)}
"""The host's tokenizers whose tokens stand beside a text, not in it, by its last tokenizer."""

_ESCAPED = (escape_important("\\("), escape_important("\\)"))
"""What the host makes of brackets that are meant as such: as many characters as are written."""


@dataclass(frozen=True)
class Columns:
    """Which of a text encoder's tokens stand in its conditioning.

    Several encoders' may stand one after the other; a template before the text may be cut off.
    """

    keys: tuple[str, ...]
    """Names of the host's tokenizers."""
    cut: int = 0
    """Tokens at the beginning that the conditioning lacks."""
    behind: int = 0
    """Tokens at the end that it lacks."""
    least: int = 0
    """Tokens that shorter texts are filled up to by the network."""
    front: int = 0
    """The same, where they are filled up in front of the text."""

    @classmethod
    def of(cls, clip: Any, text: str, cond: Tensor, extra: dict[str, Any]) -> Columns | None:
        """Find those of a conditioning's entry, made of the text; None if none fit."""
        if IDS_KEY in extra:
            return cls(("t5xxl",), least=FILLED)
        if LLAMA_KEY in extra:
            return cls(("t5xxl", "llama", "llama"))
        length = cond.shape[1]
        lengths = {
            key: sum(map(len, chunks))
            for key, chunks in clip.tokenize(text).items()
            if _encodes(clip.cond_stage_model, key)
        }
        names = list(lengths)
        names = [name for name in names if name not in BESIDE.get(names[-1], ())]
        for keys in (*((name,) for name in names), (names[0], *names[1:][-1:])):
            if sum(lengths[key] for key in keys) == length:
                return cls(keys, front=FILLED_IN_FRONT.get(keys[0], 0))
        if len(names) == 1 and lengths[names[0]] > length and not _chunked(clip, names[0]):
            behind = _cut_behind(clip, names[0])
            return cls((names[0],), lengths[names[0]] - length - behind, behind=behind)
        return None


def read(clip: Any, text: str, columns: Columns | None = None) -> Prompt:
    """Find the words of `text` and their tokens, as this CLIP sees them.

    Weights, brackets, embeddings and 75-token chunks included. `columns` are those of its
    conditioning, else those of its first tokenizer. Raises `ValueError` for a text that is too
    long, or whose brackets stand too deep in each other.
    """
    check_size(text)
    columns = columns or Columns((next(iter(clip.tokenize(""))),))
    try:
        parts = [_read(clip, text, key) for key in columns.keys]
    except RecursionError as error:
        raise ValueError(
            "Expected brackets that stand in each other a few times, got hundreds of them. "
            "Write the weight as a number, such as (cat:1.5)."
        ) from error
    prompt = Prompt.joined(parts)
    if columns.front:
        return prompt.behind(max(0, columns.front - prompt.length))
    if not columns.cut:
        return replace(prompt, length=max(prompt.length, columns.least))
    length = prompt.length - columns.cut - columns.behind
    return replace(prompt.shifted(-columns.cut), length=length)


def _read(clip: Any, text: str, key: str) -> Prompt:
    """As one of its tokenizers sees it."""
    around = [token for token, word in _flat(clip, "", key) if word != 0]
    own, length = _tokens(clip, text, key, around)
    segments, brackets = segments_of(text, weights=_reads_weights(clip, key))

    def alone(piece: str) -> list[Any]:
        piece = piece.replace("(", "\\(").replace(")", "\\)")
        return list(_tokens(clip, piece, key, around)[0].values())

    content, positions = list(own.values()), list(own)
    prompt = read_prompt(text, content, positions, length, alone, segments, brackets)
    return replace(prompt, repeats=_chunked(clip, key))


def _encodes(stage: Any, key: str) -> bool:
    """Whether a text encoder of the host has the model that a tokenizer is for."""
    return getattr(stage, f"clip_{key}", getattr(stage, key, stage)) is not None


def _cut_behind(clip: Any, key: str) -> int:
    """Count the tokens of a template's end, where an encoder cuts it off: LongCat's."""
    tokenizer = clip.tokenizer
    end = getattr(tokenizer, "SUFFIX", None)
    own = getattr(tokenizer, key, None)
    return 0 if end is None or own is None else len(own.tokenizer(end)["input_ids"])


def _chunked(clip: Any, key: str) -> bool:
    """Whether a tokenizer fills up to chunks of a length: a CLIP's."""
    tokenizer = getattr(clip, "tokenizer", None)
    own = getattr(tokenizer, f"clip_{key}", getattr(tokenizer, key, tokenizer))
    return bool(getattr(own, "pad_to_max_length", True))


def segments_of(text: str, weights: bool = True) -> tuple[list[Segment], list[range]]:
    """Split a text into what the host tokenizes, in order, and find the brackets of its weights.

    Without `weights` it takes none. As the host's `token_weights`, which does not say where.
    """
    brackets: list[range] = []
    escaped = escape_important(text)
    parts = _weighted(escaped, 0, brackets) if weights else [(0, escaped)]
    return [_unescaped(start, part) for start, part in parts], brackets


def _weighted(text: str, start: int, brackets: list[range]) -> Iterator[tuple[int, str]]:
    """What is no weight of an escaped text that begins at `start`, and where it stands.

    The pairs of brackets around it are added to `brackets`.
    """
    for item in parse_parentheses(text):
        if len(item) > 1 and item[0] == "(" and item[-1] == ")":
            brackets.append(range(start, start + len(item)))
            yield from _weighted(_without_weight(item[1:-1]), start + 1, brackets)
        else:
            yield start, item
        start += len(item)


def _without_weight(text: str) -> str:
    """The text in a pair of brackets without the weight at its end, if there is one."""
    before, colon, weight = text.rpartition(":")
    try:
        float(weight)
    except ValueError:
        return text
    return before if colon and before else text


def _unescaped(start: int, text: str) -> Segment:
    """A segment of the host's escaped text, which begins at `start`, as it is tokenised."""
    characters, at = list[str](), list[int]()
    i = 0
    while i < len(text):
        size = 2 if text[i : i + 2] in _ESCAPED else 1
        characters.append(unescape_important(text[i : i + size]))
        at.append(start + i)
        i += size
    return Segment("".join(characters), (*at, start + len(text)))


def _reads_weights(clip: Any, key: str) -> bool:
    """Whether this CLIP's tokenizer takes brackets for weights; some take them as they stand."""
    return _flat(clip, "(a:1.5)", key) == _flat(clip, "a", key)


def _tokens(clip: Any, text: str, key: str, around: Sequence[Any]) -> tuple[dict[int, Any], int]:
    """Position → token of the text itself, and the length with special tokens and padding.

    `around` are the tokens that a tokenizer writes around every text, as chat models are used to.
    """
    chunks = clip.tokenize(text, return_word_ids=True)[key]
    entries = [_entry(entry) for chunk in chunks for entry in chunk]
    words = {i: _token_key(token) for i, (token, word) in enumerate(entries) if word != 0}
    if around:
        ids = list(words.values())
        before = _shared(ids, around)
        after = _shared(ids[::-1], around[before:][::-1])
        places = list(words)
        words = {place: words[place] for place in places[before : len(places) - after]}
    return words, len(entries)


def _flat(clip: Any, text: str, key: str) -> list[tuple[Any, int]]:
    """Tokens of a text, all chunks one after the other, and which word each is of; 0: of none."""
    chunks = clip.tokenize(text, return_word_ids=True)[key]
    return [(_token_key(token), word) for chunk in chunks for token, word in map(_entry, chunk)]


def _entry(entry: Sequence[Any]) -> tuple[Any, int]:
    """A token and its word; a tokenizer that numbers no words leaves all of one but its padding."""
    token, _, *word = entry
    return token, word[0] if word else 1


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many elements two sequences both begin with."""
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _token_key(token: Any) -> Any:
    """A token's number, or all of a textual-inversion vector, which has none."""
    return token.float().numpy(force=True).tobytes() if isinstance(token, Tensor) else token
