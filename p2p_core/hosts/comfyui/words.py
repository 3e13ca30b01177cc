"""Words of a prompt without a text encoder, by the tokenizer that the host brings along."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from comfy.sd1_clip import SD1Tokenizer

from ...tokens import Prompt
from .prompts import read


@cache
def _clip() -> SimpleNamespace:
    """What `prompts.read` asks of a CLIP: its tokenizer, without embeddings, which are files."""
    tokenizer = SD1Tokenizer()
    return SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)


def read_words(text: str) -> Prompt:
    """Find a prompt's words and their tokens as Stable Diffusion's CLIP has them.

    Other encoders cut words into other tokens, but agree on what a word is. Raises `ValueError` as
    `prompts.read` does.
    """
    return read(_clip(), text)
