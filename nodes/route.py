"""The route that tells the canvas what edits would do: `POST /p2p/align`, JSON in and out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web
from server import PromptServer

from ..p2p_core.edits import Refine, Reweight, WordSwap
from ..p2p_core.edits.mix import Mix
from ..p2p_core.hosts.comfyui.words import read_words
from ..p2p_core.local_blend import LocalBlend
from ..p2p_core.notation import check_text, parse_factors, parse_windows, parse_words
from ..p2p_core.previewing import Mistake, lacking, preview, spans_of, words_of
from ..p2p_core.schedules import Schedule, Window
from .controller import MAX_EDITS

PATH = "/p2p/align"
MOST_BYTES, MOST_CHARACTERS, MOST_LINKS, MOST_PHRASES = 65_536, 4_000, 16, 64
"""Of a request, of each of its texts, and of a chain: what an answer takes grows with them."""

MOST = 1e6
"""No number of an edit is beyond it."""


def add_route() -> None:
    """Give the host's server the route, where there is a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.post(PATH)(align)


async def align(request: web.Request) -> web.Response:
    """Answer a request: what its chains of edits make of its prompt, or a sentence with 400."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            return _refused(f"Expected a request of at most {MOST_BYTES} bytes. Shorten the texts.")
    try:
        asked = json.loads(bytes(body), parse_constant=_no_number)
        told = await asyncio.get_running_loop().run_in_executor(None, answer, asked)
    except RecursionError:
        return _refused("Expected JSON that is a few levels deep, got more. Send it flat.")
    except ValueError as error:
        return _refused(str(error))
    return web.json_response(told)


def answer(asked: Any) -> dict[str, Any]:
    """Say what chains of edits make of a prompt.

    Args:
        asked: `{"source": text, "chains": [[{"type": node id, "inputs": {...}}]],
            "phrases": [text]}`; the inputs are the node's own, those left out at their defaults,
            and the last two may be left out.

    Returns:
        `{"words", "chains": [{"text", "words", "spans", "links": [{"words"}], "mistakes"}],
        "mistakes"}`: the source's words, what each chain makes of them, and the phrases that are in
        none of the prompts.

    Raises:
        ValueError: for a request of another form, too long texts or too many links.
    """
    given = _Given(asked, "the request")
    source = read_words(given.text("source"))
    chains = given.items("chains", MAX_EDITS)
    phrases = [one for text in given.texts("phrases") for one in parse_words(text)]
    told, prompts = list[dict[str, Any]](), [source]
    for links in chains:
        if not isinstance(links, list) or len(links) > MOST_LINKS:
            raise _Refused(f"Expected chains of at most {MOST_LINKS} edits, got {_kind(links)}.")
        made, places, mistakes = list[Any](), list[int](), list[Mistake]()
        for place, link in enumerate(links):
            try:
                made.append(_made(link))
                places.append(place)
            except _Unwritten as error:
                mistakes.append(Mistake(place, str(error)))
        seen = preview(source, tuple(made), read_words)
        prompts.append(seen.edited)
        mistakes += [replace(one, link=_at(places, one.link)) for one in seen.mistakes]
        spans = [replace(span, edit=_at(places, span.edit)) for span in seen.spans]
        found = dict(zip(places, seen.before, strict=True))
        told.append(
            {
                "text": seen.edited.text,
                "words": words_of(seen.edited),
                "spans": spans_of(source, seen.edited, spans),
                "links": [
                    {"text": found.get(n, source).text, "words": words_of(found.get(n, source))}
                    for n in range(len(links))
                ],
                "mistakes": [asdict(one) for one in mistakes],
            }
        )
    return {
        "words": words_of(source),
        "chains": told,
        "mistakes": [asdict(one) for one in lacking(phrases, prompts)],
    }


def _at(places: list[int], link: int | None) -> int | None:
    """Where a link stands among all of its chain, which it does not know of."""
    return None if link is None else places[link]


class _Refused(ValueError):
    """What is wrong with a request, whatever its edits are."""


class _Unwritten(ValueError):
    """What is wrong with an edit as someone wrote it into its node; no fault of a request."""


class _Given:
    """A request's object, whose values are of the kinds that are asked for; else `_Refused`."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise _Refused(f"Expected {name} as a JSON object, got {_kind(value)}.")
        self._value, self._name = value, name

    def text(self, key: str) -> str:
        return self._checked(key, self._value.get(key, ""))

    def texts(self, key: str) -> list[str]:
        return [self._checked(key, one) for one in self.items(key, MOST_PHRASES)]

    def items(self, key: str, most: int) -> list[Any]:
        value = self._value.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise _Refused(f"Expected {key} as a list of at most {most}, got {_kind(value)}.")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._value.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Refused(f"Expected {key} as a number, got {_kind(value)}.")
        if not abs(value) <= MOST:  # nor is infinity
            raise _Refused(f"Expected {key} of at most {MOST:g} either way, got another number.")
        return value

    def count(self, key: str) -> int:
        value = self.number(key, 1)
        if not 1 <= value <= 999:
            raise _Refused(f"Expected {key} from 1 to 999, got another number.")
        return int(value)

    def object(self, key: str) -> _Given:
        return _Given(self._value.get(key, {}), key)

    def _checked(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _Refused(f"Expected {key} as a text, got {_kind(value)}.")
        if len(value) > MOST_CHARACTERS:
            raise _Refused(
                f"Expected {key} of at most {MOST_CHARACTERS} characters, got {len(value)}. "
                "Shorten it."
            )
        try:
            check_text(value)
        except ValueError as error:
            raise _Refused(str(error)) from error
        return value


def _swap(given: _Given) -> WordSwap:
    return WordSwap(
        given.text("words"),
        given.text("replacement"),
        given.count("occurrence"),
        schedule=_schedule(given),
    )


def _mix(given: _Given) -> Mix:
    return Mix(
        given.text("words"),
        given.text("replacement"),
        given.number("degree", 0.5),
        given.count("occurrence"),
        schedule=_schedule(given),
    )


def _refine(given: _Given) -> Refine:
    return Refine(given.text("edited_prompt"), schedule=_schedule(given))


def _reweight(given: _Given) -> Reweight:
    return Reweight(parse_factors(given.text("words"), given.number("factor", 1.5)))


def _local_blend(given: _Given) -> LocalBlend:
    words = (
        parse_words(given.text(f"{whose}_words")) for whose in ("source", "edited", "subtract")
    )
    return LocalBlend(*words)


def _schedule(given: _Given) -> Schedule:
    return Schedule(Window(0.0, 0.8), parse_windows(given.text("word_windows")))


MAKERS: dict[str, Callable[[_Given], Any]] = {
    "P2P_WordSwap": _swap,
    "P2P_Mix": _mix,
    "P2P_Refine": _refine,
    "P2P_Reweight": _reweight,
    "P2P_LocalBlend": _local_blend,
}
"""Edits by the ids of their nodes."""


def _made(link: Any) -> Any:
    """The edit that a node with these inputs makes; what is written wrongly is `_Unwritten`."""
    given = _Given(link, "an edit")
    make = MAKERS.get(given.text("type"))
    if make is None:
        raise _Refused(f"Expected an edit's type as one of {', '.join(MAKERS)}, got another.")
    inputs = given.object("inputs")
    try:
        return make(inputs)
    except _Refused:
        raise
    except ValueError as error:
        raise _Unwritten(str(error)) from error


def _kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    names = {dict: "an object", list: f"a list of {len(value)}" if isinstance(value, list) else ""}
    names |= {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")


def _no_number(name: str) -> Any:
    raise ValueError(f"Expected finite numbers, got {name}.")


def _refused(sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=400)
