"""The nodes' texts in other languages say what the English ones say, of the same things."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_core.inversion.methods import METHODS

FOLDER = Path(__file__).parents[2] / "locales"
CANVAS = Path(__file__).parents[2] / "web" / "js"
LANGUAGES = sorted(path.name for path in FOLDER.iterdir() if path.name != "en")
SCRIPTS = {"zh": r"[一-鿿]", "ja": r"[ぁ-ヿ]", "ko": r"[가-힣]", "ru": r"[а-яё]"}
"""What a sentence of the language cannot do without, where that is not the Latin alphabet."""

Key = tuple[str, ...]


def nodes(language: str) -> dict[str, Any]:
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def texts(tree: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Every text with its place, such as ("P2P_Mix", "inputs", "words", "tooltip")."""
    if isinstance(tree, str):
        yield key, tree
    else:
        for name, inside in tree.items():
            yield from texts(inside, (*key, name))


ENGLISH = dict(texts(nodes("en")))


def is_sentence(key: Key) -> bool:
    return key[-1] in ("tooltip", "description")


def shown(node: str, named: dict[Key, str]) -> str:
    """A node's name as other texts mention it."""
    return named[node, "display_name"].removesuffix(" (Prompt-to-Prompt)")


NODES = sorted(nodes("en"), key=lambda node: -len(shown(node, ENGLISH)))
"""The nodes, one whose name begins with another's before that."""


def kept(key: Key, translated: dict[Key, str]) -> set[str]:
    """What has to stand in the translation of an English text.

    That is as it is: numbers and signs, examples in quotes, blocks, values that are chosen from a
    list, names of the host's; and by their translated names: inputs of the same node, and nodes.
    """
    text = ENGLISH[key]
    same = set(re.findall(r"\d+(?:\.\d+)?|[→+−×]", text))
    same |= set(re.findall(r"(?<!\w)'([^']+)'(?!\w)", text))
    same |= set(re.findall(r"\b(?:first|last|middle) \d/\d|\b\d+-\d+", text))
    same |= {method for method in METHODS if "-" in method and method in text}
    same |= set(re.findall(r"\b[A-Z]\w*[a-z][A-Z]\w*\b", text))
    for word in re.findall(r"\b\w+_\w+\b", text):
        same.add(translated.get((key[0], "inputs", word, "name"), word))
    for node in NODES:
        if shown(node, ENGLISH) in text:
            same.add(shown(node, translated))
            text = text.replace(shown(node, ENGLISH), "")
    return same


def stands(one: str, text: str) -> bool:
    """Whether it stands in the text, a number not as a part of another."""
    whole = rf"(?<!\d){re.escape(one)}(?!\d)" if one[-1].isdigit() else re.escape(one)
    return re.search(whole, text) is not None


def test_chinese_and_japanese_are_there() -> None:
    assert {"zh", "ja"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_and_no_other(language: str) -> None:
    translated = dict(texts(nodes(language)))
    assert sorted(ENGLISH.keys() - translated.keys()) == [], "not translated"
    assert sorted(translated.keys() - ENGLISH.keys()) == [], "of nothing that there is"
    assert [key for key, text in translated.items() if not text.strip()] == [], "empty"


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_in_the_language(language: str) -> None:
    translated = dict(texts(nodes(language)))
    script = SCRIPTS.get(language, "")
    for key in filter(is_sentence, translated):
        assert translated[key] != ENGLISH.get(key), key
        assert re.search(script, translated[key]), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_typed_chosen_or_counted_stays(language: str) -> None:
    translated = dict(texts(nodes(language)))
    lost = {
        key: sorted(left)
        for key in ENGLISH.keys() & translated.keys()
        if is_sentence(key)
        and (left := {one for one in kept(key, translated) if not stands(one, translated[key])})
    }
    assert lost == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_english_text_has_one_translation(language: str) -> None:
    translated = dict(texts(nodes(language)))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for key in ENGLISH.keys() & translated.keys():
        found[ENGLISH[key]].add(translated[key])
    assert {text: all_ for text, all_ in found.items() if len(all_) > 1} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_a_nodes_inputs_are_told_apart(language: str) -> None:
    for node, info in nodes(language).items():
        names = [one["name"] for one in info.get("inputs", {}).values()]
        assert len(names) == len(set(names)), node


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_is_taken_for_a_template(language: str) -> None:
    """Frontends read these signs as values to fill in, links to other texts, and plurals."""
    assert [key for key, text in texts(nodes(language)) if re.search(r"[{}@|]", text)] == []


def test_what_the_canvas_says_is_in_every_language() -> None:
    """Texts that `t` is called with, and sentences, which are shown where they are used."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(CANVAS.glob("*.js")))
    said = set(re.findall(r"\bt\('([^'\n]+)'\)|'([A-Z][^'\n]* [^'\n]*\.)'", code))
    texts_ = {one or other for one, other in said}
    assert "Did you mean" in texts_
    assert "Choose the word to replace." in texts_
    for language in LANGUAGES:
        file = FOLDER / language / "main.json"
        translated = json.loads(file.read_text(encoding="utf-8"))["promptToPrompt"]
        assert sorted(texts_ - translated.keys()) == [], f"not translated into {language}"
        unsaid = [one for one in translated if f"'{one}'" not in code]
        assert unsaid == [], f"of nothing that there is, in {language}"
        assert all(translated.values())
