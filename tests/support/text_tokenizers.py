"""Small tokenizers of different habits, for tests that must hold for any tokenizer."""

import base64
import json
import re

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from p2p_core.tokens import read_prompt


def chunks_of_three(text):
    """Every run of non-spaces in pieces of three characters, as a BPE splits rare words."""
    return [blob[i : i + 3].lower() for blob in text.split() for i in range(0, len(blob), 3)]


def whole_words(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())


def context_dependent(text):
    """Pairs of characters across words: a word alone gives other tokens than in its text."""
    squeezed = "_".join(text.split())
    return [squeezed[i : i + 2] for i in range(0, len(squeezed), 2)]


def swallowing(text):
    """Drops what is in brackets but for letters, as prompt weights are dropped."""
    return whole_words(re.sub(r":[\d.]+\)|\(", " ", text))


ALL = (chunks_of_three, whole_words, context_dependent, swallowing)


def reader(tokenise=whole_words, window=75):
    """`read` as hosts give it.

    Chunks of `window` tokens, each with a start and an end, the last one padded.
    """

    def read(text):
        content = tokenise(text)
        chunks = max(1, -(-len(content) // window))
        positions = [(i // window) * (window + 2) + 1 + i % window for i in range(len(content))]
        return read_prompt(text, content, positions, chunks * (window + 2), tokenise)

    return read


def tekken():
    """A Mistral tokenizer of single bytes, as a text encoder's file holds it: uint8[bytes]."""
    special = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>"}
    special |= {17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]"}
    content = {
        "config": {"default_num_special_tokens": 1000, "default_vocab_size": 1256},
        "vocab": [
            {"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode()} for n in range(256)
        ],
        "special_tokens": [{"rank": rank, "token_str": text} for rank, text in special.items()],
    }
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


LLAMA = {"<|begin_of_text|>": 128000, "<|start_header_id|>": 128006, "<|end_header_id|>": 128007}
LLAMA |= {"<|eot_id|>": 128009, "user": 882, "\n\n": 271}
"""Tokens that the host looks for by their numbers."""


def llama(folder):
    """Keep a Llama tokenizer of single bytes, its special tokens in their places."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {one: n for n, one in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE({**vocabulary, **LLAMA}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(LLAMA))
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, LLAMA[begin])]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
