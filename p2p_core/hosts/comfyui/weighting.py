"""Word weights without an edit: one prompt, any sampler, any of the families.

Hosts have switched prompt weights off for most transformers; here a word's attention is multiplied
in the network itself, and the weights' brackets never reach the text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from comfy.sd1_clip import escape_important, token_weights, unescape_important

from ...edits import Joint, Reweight, SelfInjection
from ...schedules import Schedule, Window
from ...tokens import Prompt
from .attention import attach
from .conditioning import CONTROLLER_KEY, PAYLOAD_KEY, Conditioning, Payload, build_controller
from .guarding import guarded, unguarded
from .prompts import read

UNKNOWN = (
    "Expected the model of P2P Word Weights to be sampled with its conditioning, got another, "
    "which would leave the weights out. Connect both outputs of the same node."
)


def weigh(
    model: Any,
    clip: Any,
    text: str,
    weights: Sequence[tuple[str, float]] = (),
    window: Window | None = None,
    joint: Joint | None = None,
) -> tuple[Any, Conditioning]:
    """Encode a text in which words weigh more or less: (model, conditioning), to be sampled so.

    "(green:0.8) bag with (spots:1.25)", as the host writes weights, and `weights` of words beside.
    Without a weight but 1 both are the host's own. Raises `ValueError` for words that the text
    lacks, and as `attach` and `build_controller` do.
    """
    written, inside = _parted(text)
    prompt = read(clip, written)
    own = ((_numbered(prompt, phrase, start), factor) for phrase, start, factor in inside)
    factors = [*own, *weights]
    factors = [(phrase, factor) for phrase, factor in factors if factor != 1]
    if not factors:
        return model, clip.encode_from_tokens_scheduled(clip.tokenize(written))
    edit = Reweight(
        tuple(factors),
        Schedule(window or Window()),
        SelfInjection(Window(0.0, 0.0)),
        joint or Joint(),
    )
    encoded = build_controller(clip, written, [(edit,)])
    payload = Payload(encoded.controller, None)
    return attach(model), [
        [
            cond[:1],
            {
                **guarded(_first(unguarded(extra), len(cond)), UNKNOWN),
                PAYLOAD_KEY: payload,
            },
        ]
        for cond, extra in encoded.conditioning
    ]


def _parted(text: str) -> tuple[str, list[tuple[str, int, float]]]:
    """The text without weights, brackets escaped, and what had one: (words, place, weight)."""
    written, found = "", list[tuple[str, int, float]]()
    for escaped, weight in token_weights(escape_important(text), 1.0):
        part = unescape_important(escaped).replace("(", "\\(").replace(")", "\\)")
        if weight != 1 and part.strip():
            found.append((part.strip(), len(written), weight))
        written += part
    return written, found


def _numbered(prompt: Prompt, phrase: str, start: int) -> str:
    """A phrase as one of several is named, "cat #2" for the first at this place or after it.

    Raises `ValueError` as `Prompt.find` does.
    """
    for number in count(1):
        if prompt.words[prompt.find(phrase, number)[0]].start >= start:
            return f"{phrase} #{number}"
    raise AssertionError


def _first(extra: dict[str, Any], rows: int) -> dict[str, Any]:
    """A conditioning's dict for the first of its rows."""

    def one(value: Any) -> Any:
        several = hasattr(value, "shape") and value.ndim and value.shape[0] == rows
        return value[:1] if several else value

    return {key: one(value) for key, value in extra.items() if key != CONTROLLER_KEY}
