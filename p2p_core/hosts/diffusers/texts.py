"""Words of a prompt and their tokens, as a pipeline's tokenizers see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ...notation import check_text
from ...tokens import Prompt, check_size, read_prompt, shortened


@dataclass(frozen=True)
class Encoder:
    """One of the texts that a network gets, as far as its words go."""

    ids: Callable[[str], Sequence[int]]
    """All tokens of a text that the network gets, but for those that fill it up."""
    most: int
    """How many these can be."""
    length: Callable[[int], int]
    """To how many so many are filled up."""
    repeats: bool = True
    """Whether texts of other lengths would be repeated to one, see `tokens.Prompt`."""

    def read(self, text: str) -> Prompt:
        """Read a text's words; raises `ValueError` for one that is too long."""
        check_size(text)
        check_text(text)
        around = self.ids("")
        before, content, whole = self._content(text, around)
        if whole > self.most:
            raise ValueError(
                f"Expected a prompt of at most {self.most - len(around)} tokens, got "
                f"{len(content)}: {shortened(text)!r}. Shorten it."
            )
        places = range(before, before + len(content))

        def alone(part: str) -> Sequence[int]:
            return self._content(part, around)[1]

        prompt = read_prompt(text, content, places, self.length(whole), alone)
        return replace(prompt, repeats=self.repeats)

    def _content(self, text: str, around: Sequence[int]) -> tuple[int, Sequence[int], int]:
        """How many tokens stand before a text's own, these, and how many there are in all.

        `around` are those that stand around every text.
        """
        ids = self.ids(text)
        before = _shared(ids, around)
        after = _shared(ids[before:][::-1], around[before:][::-1])
        return before, ids[before : len(ids) - after], len(ids)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many elements two sequences both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def read(encoders: Sequence[Encoder], text: str) -> Prompt:
    """Read a text's words as all of a network's encoders see them; raises as `Encoder.read`."""
    return Prompt.joined([encoder.read(text) for encoder in encoders])
