"""Words of a prompt and their tokens, as the host's CLIP sees them: its weights, its escapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy.sd1_clip import escape_important, parse_parentheses, unescape_important
from torch import Tensor

from ...tokens import Prompt, Segment, check_size, read_prompt

_ESCAPED = (escape_important("\\("), escape_important("\\)"))
"""What the host makes of brackets that are meant as such: as many characters as are written."""


def read(clip: Any, text: str) -> Prompt:
    """Read the words of `text` and their tokens, as this CLIP sees them.

    Weights, brackets, embeddings and 75-token chunks included. Raises `ValueError` for a text that
    is too long, or whose brackets stand too deep in each other.
    """
    check_size(text)
    try:
        own, length = _tokens(clip, text)
        segments, brackets = segments_of(text, weights=_reads_weights(clip))
    except RecursionError as error:
        raise ValueError(
            "Expected brackets that stand in each other a few times, got hundreds of them. "
            "Write the weight as a number, such as (cat:1.5)."
        ) from error

    def alone(piece: str) -> list[Any]:
        return list(_tokens(clip, piece.replace("(", "\\(").replace(")", "\\)"))[0].values())

    content, positions = list(own.values()), list(own)
    return read_prompt(text, content, positions, length, alone, segments, brackets)


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


def _reads_weights(clip: Any) -> bool:
    """Whether this CLIP's tokenizer takes brackets for weights; some take them as they stand."""
    return _tokens(clip, "(a:1.5)") == _tokens(clip, "a")


def _tokens(clip: Any, text: str) -> tuple[dict[int, Any], int]:
    """Position → token of the text itself, and the length with special tokens and padding."""
    chunks = next(iter(clip.tokenize(text, return_word_ids=True).values()))
    flat = [entry for chunk in chunks for entry in chunk]
    return {i: _token_key(token) for i, (token, _, word) in enumerate(flat) if word != 0}, len(flat)


def _token_key(token: Any) -> Any:
    """A token's number, or all of a textual-inversion vector, which has none."""
    return token.float().numpy(force=True).tobytes() if isinstance(token, Tensor) else token
