"""Words of a prompt without a text encoder, by the tokenizer that the host brings along."""

from __future__ import annotations

from functools import cache, lru_cache
from types import SimpleNamespace

from comfy.sd1_clip import SD1Tokenizer

from ...tokens import Prompt
from .prompts import read

KEPT = 1024
"""Texts whose tokens are remembered: while someone writes, most words are those of before."""


@cache
def _clip() -> SimpleNamespace:
    """What `prompts.read` asks of a CLIP: its tokenizer, without embeddings, which are files."""
    tokenizer = SD1Tokenizer()
    tokenize = lru_cache(KEPT)(tokenizer.tokenize_with_weights)
    return SimpleNamespace(tokenizer=tokenizer, tokenize=tokenize)


def read_words(text: str) -> Prompt:
    """Find a prompt's words and their tokens as Stable Diffusion's CLIP has them.

    Other encoders cut words into other tokens, but agree on what a word is. Raises `ValueError` as
    `prompts.read` does.
    """
    return read(_clip(), text)
