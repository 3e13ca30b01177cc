"""The route that tells the canvas what edits would do: its answers, its limits, and nonsense."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p_core.hosts.launch.server import Server

SOURCE = "a red circle and a red square on the grass"


def ask(server: Server, body: Any, raw: bool = False) -> tuple[int, Any]:
    """Post to the route: status and answer."""
    data = body if raw else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{server.url}/p2p/align", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def link(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"type": f"P2P_{kind}", "inputs": inputs}


def test_words_have_the_names_that_edits_call_them_by(server: Server) -> None:
    status, told = ask(server, {"source": "a cat, a (cat:1.3)"})
    assert status == 200
    assert [word["name"] for word in told["words"]] == ["a #1", "cat #1", "", "a #2", "cat #2"]
    assert [word["text"] for word in told["words"]] == ["a", "cat", ",", "a", "cat"]


def test_every_kind_of_edit_is_aligned(server: Server) -> None:
    chains = [
        [link("WordSwap", words="red #2", replacement="blue"), link("Reweight", words="blue: 2")],
        [link("Refine", edited_prompt=SOURCE + " at night")],
        [link("Mix", words="circle", replacement="star", degree=0.3), link("LocalBlend")],
    ]
    status, told = ask(server, {"source": SOURCE, "chains": chains, "phrases": ["star, night"]})
    assert status == 200
    assert told["mistakes"] == []
    swapped, refined, mixed = told["chains"]
    assert [chain["mistakes"] for chain in told["chains"]] == [[], [], []]
    assert swapped["text"] == "a red circle and a blue square on the grass"
    changed = [span for span in swapped["spans"] if span["kind"] != "kept"]
    assert [(s["source"], s["edited"], s["edit"]) for s in changed] == [(["red"], ["blue"], 0)]
    assert swapped["links"][1]["text"] == swapped["text"]
    assert [s["edited"] for s in refined["spans"] if s["kind"] == "inserted"] == [["at", "night"]]
    assert mixed["text"] == "a red circle star and a red square on the grass"


def test_mistakes_are_told_at_their_links_with_the_nearest_word(server: Server) -> None:
    chain = [
        link("WordSwap", words="cirle", replacement="star"),
        link("Reweight", words="red: much"),
        link("WordSwap", words="grass", replacement="sand"),
    ]
    status, told = ask(server, {"source": SOURCE, "chains": [chain], "phrases": ["sqare"]})
    assert status == 200
    (answered,) = told["chains"]
    assert answered["text"].endswith("on the sand")
    assert [span["edit"] for span in answered["spans"] if span["kind"] == "swapped"] == [2]
    by_link = {mistake["link"]: mistake for mistake in answered["mistakes"]}
    assert set(by_link) == {0, 1}
    assert (by_link[0]["phrase"], by_link[0]["nearest"]) == ("cirle", "circle")
    assert "Expected a number, got 'much'" in by_link[1]["message"]
    assert [mistake["nearest"] for mistake in told["mistakes"]] == ["square"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "Expected the request as a JSON object, got a list of 0."),
        ({"source": 3}, "Expected source as a text, got a number."),
        ({"source": "x" * 4001}, "Expected source of at most 4000 characters, got 4001."),
        ({"source": "x" * 1001}, "Expected words of at most 1000 letters"),
        ({"source": "a", "chains": {}}, "Expected chains as a list of at most 8"),
        ({"source": "a", "chains": [[]] * 9}, "Expected chains as a list of at most 8"),
        ({"source": "a", "chains": [[{}] * 17]}, "Expected chains of at most 16 edits"),
        ({"source": "a", "chains": [["swap"]]}, "Expected an edit as a JSON object, got a text."),
        ({"source": "a", "chains": [[link("KSampler")]]}, "Expected an edit's type as one of P2P_"),
        ({"source": "a", "chains": [[link("WordSwap", words=1)]]}, "Expected words as a text"),
        ({"source": "a", "chains": [[link("WordSwap", occurrence=0)]]}, "from 1 to 999"),
        ({"source": "a", "chains": [[link("Reweight", factor=math.inf)]]}, "Expected finite"),
        ({"source": "a", "chains": [[link("Reweight", factor=10**400)]]}, "of at most 1e+06"),
        ({"source": "\ud800"}, "Expected text in UTF-8"),
        ({"source": "a", "more": "x" * 70_000}, "Expected a request of at most 65536 bytes."),
    ],
)
def test_anything_else_is_refused_with_a_sentence(body: Any, sentence: str, server: Server) -> None:
    status, told = ask(server, body)
    assert status == 400
    assert sentence in told["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b"1" * 5000, b"NaN"])
def test_what_is_no_json_is_refused(body: bytes, server: Server) -> None:
    status, told = ask(server, body, raw=True)
    assert status == 400
    assert told["error"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
prompts = st.text(st.sampled_from("ab ,.()[]{}:#\\1|-\n'é猫"), max_size=40)
kinds = st.sampled_from(["WordSwap", "Mix", "Refine", "Reweight", "LocalBlend"])
names = st.sampled_from(
    ["words", "replacement", "edited_prompt", "source_words", "word_windows", "degree", "factor"]
)
links = st.builds(
    lambda kind, inputs: {"type": f"P2P_{kind}", "inputs": inputs},
    kinds,
    st.dictionaries(names, prompts | st.floats(-2, 2), max_size=4),
)
requests = st.fixed_dictionaries(
    {"source": prompts},
    optional={
        "chains": st.lists(st.lists(links | anything, max_size=3), max_size=3) | anything,
        "phrases": st.lists(prompts, max_size=3) | anything,
    },
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests | anything)
def test_nonsense_is_answered_or_refused_and_never_fails(server: Server, body: Any) -> None:
    status, told = ask(server, body)
    assert (status == 200 and told["words"] is not None) or (status == 400 and told["error"])
