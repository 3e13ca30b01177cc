"""What somebody writes becomes values once, and is written the same again."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as some

from p2p_core.jobs.edit import Edit, Inverting, Sampling
from p2p_core.jobs.values import Number, Size, Swaps, Words, Written, checked

words = some.text(some.characters(exclude_categories=("Cs",)), min_size=1).map(str.strip)


@checked
class Wished:
    size: Size | None = None
    swap: Swaps = ()
    cfg: Number | None = None
    blend: Words = ()


def test_text_and_values_make_the_same():
    text = {"size": " 512×768", "swap": "cat = dog; a=b=c", "cfg": "7.50", "blend": "cat;dog, hat"}
    values = Wished(
        size=(512, 768), swap=(("cat", "dog"), ("a", "b=c")), cfg=7.5, blend=("cat", "dog, hat")
    )
    assert Wished(**text) == values
    assert pickle.loads(pickle.dumps(values)) == values


@given(words.filter(lambda word: word and "=" not in word), words)
def test_a_pair_is_written_as_it_is_read(old, new):
    pair = Written("cat=dog", "=")
    assert pair.split(pair.join((old, new))) == [old, new]


@given(some.floats(-3.4e38, 3.4e38))
def test_a_factor_is_written_as_it_is_read(factor):
    edit = Edit(source="a cat", reweight=(("cat", factor),))
    (text,) = edit.parameters()["reweight"]
    assert Edit(source="a cat", reweight=(text,)) == edit
    assert Edit(source="a cat", reweight="cat=2").parameters()["reweight"] == ["cat=2"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": "100x8"}, "Expected size to be a multiple of 8, got '100'."),
        ({"size": (0, 8)}, "Expected size to be greater than 0, got 0."),
        ({"size": "512"}, "Expected a pair such as --size 512x768, got '512'."),
        ({"swap": "=dog"}, "Expected a pair such as --swap bicycle=car, got '=dog'."),
        ({"swap": 5}, "Expected swap to be a valid tuple, got 5."),
        ({"swap": "a=\ud800"}, "Expected text in UTF-8"),
        ({"blend": [5]}, "Expected blend to be a valid string, got 5."),
        ({"cfg": "nan"}, "Expected cfg to be a finite number, got 'nan'."),
        ({"colour": "red"}, "Expected another colour"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(values, said):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Wished(**values)
    assert str(raised.value).startswith(said)
    assert len(str(raised.value).splitlines()) == 1


def test_an_edit_has_every_setting_once():
    """Those of sampling first, as commands in pictures have them."""
    names = [field.name for field in fields(Edit)]
    assert len({*names}) == len(names)
    sampling = [field.name for field in fields(Sampling)]
    assert names[: len(sampling)] == sampling
    assert {field.name for field in fields(Inverting)} < {*names}
    with pytest.raises(ValueError, match="Expected source, got none"):
        Edit(swap="a=b")
