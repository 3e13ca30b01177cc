import random
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from p2p_core.demo import scenes
from p2p_core.demo.recognise import Found, Reading, matches, recognise
from p2p_core.demo.scenes import SIZE, Item, Scene

SCENES = 200


def scene(*items: Item, background: str = "sand") -> Scene:
    pebbles = ((20.0, 20.0, 5.0, 0.55), (110.0, 15.0, 4.0, 1.25))
    return Scene(items, background, (80.0, 0.2), pebbles)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Like a generated picture: soft, noisy, and with the colours a little off."""
    soft = ndimage.gaussian_filter(image.astype(float), (1.0, 1.0, 0.0))
    cast = soft * rng.uniform(0.96, 1.04, 3) + rng.normal(0, 6, soft.shape)
    return cast.round().clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=2)
def rates(degraded: bool) -> dict[str, float]:
    rng, noise = random.Random(1), np.random.default_rng(1)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for _ in range(SCENES):
        truth = scenes.sample_scene(rng)
        image = scenes.render(truth)
        reading = recognise(degrade(image, noise) if degraded else image)
        wanted = [{k: getattr(i, k) for k in ("shape", "colour", "pattern")} for i in truth.items]
        results = [
            {
                "background": reading.background == truth.background,
                "count": len(reading.items) == len(truth.items),
            },
            *matches(reading, wanted),
        ]
        for result in results:
            right.update(key for key, value in result.items() if value)
            total.update(result)
    return {key: right[key] / total[key] for key in total}


@pytest.mark.parametrize(
    ("degraded", "what", "least"),
    [
        (False, "background", 0.99),
        (False, "colour", 0.98),
        (False, "shape", 0.97),
        (False, "pattern", 0.95),
        (False, "count", 0.98),
        (True, "background", 0.98),
        (True, "colour", 0.97),
        (True, "shape", 0.92),
        (True, "pattern", 0.95),
        (True, "count", 0.97),
    ],
)
def test_random_scenes(degraded: bool, what: str, least: float) -> None:
    assert rates(degraded)[what] >= least


@pytest.mark.parametrize("background", scenes.BACKGROUNDS)
@pytest.mark.parametrize("degraded", [False, True])
def test_nothing_but_ground(background: str, degraded: bool) -> None:
    image = scenes.render(scene(background=background))
    reading = recognise(degrade(image, np.random.default_rng(0)) if degraded else image)
    assert reading == Reading(background, ())


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize("pattern", scenes.PATTERNS)
def test_place_size_and_mask(shape: str, pattern: str) -> None:
    item = Item(shape, "blue", pattern, 60.3, 70.8, 22.6)
    (found,) = recognise(scenes.render(scene(item))).items
    assert (found.shape, found.colour, found.pattern) == (shape, "blue", pattern)
    assert (found.x, found.y, found.radius) == pytest.approx((60.3, 70.8, 22.6), abs=1.0)
    truth = np.asarray(scenes.item_mask(item)) > 127
    assert found.mask.dtype == bool
    assert found.mask.shape == (SIZE, SIZE)
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.9
    assert 0.9 < found.fit <= 1.0


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_light_stripes_on_snow_belong_to_the_object(shape: str) -> None:
    item = Item(shape, "red", "striped", 64.0, 60.0, 24.0)
    (found,) = recognise(scenes.render(scene(item, background="snow"))).items
    assert (found.shape, found.colour, found.pattern) == (shape, "red", "striped")
    truth = np.asarray(scenes.item_mask(item)) > 127
    assert (found.mask & truth).sum() / truth.sum() > 0.85


def test_largest_first() -> None:
    small = Item("circle", "red", "plain", 30.0, 90.0, 14.0)
    big = Item("square", "green", "plain", 85.0, 50.0, 25.0)
    items = recognise(scenes.render(scene(small, big))).items
    assert [item.colour for item in items] == ["green", "red"]


def test_touching_objects_of_two_colours_are_two() -> None:
    left = Item("square", "orange", "plain", 40.0, 60.0, 20.0)
    right = Item("square", "black", "plain", 74.4, 60.0, 20.0)
    items = recognise(scenes.render(scene(left, right))).items
    assert {(item.shape, item.colour) for item in items} == {
        ("square", "orange"),
        ("square", "black"),
    }


def test_same_picture_same_reading_and_picture_untouched() -> None:
    image = scenes.render(scene(Item("star", "pink", "dotted", 60.0, 60.0, 20.0)))
    before = image.copy()
    (first,), (second,) = recognise(image).items, recognise(image).items
    assert (first.x, first.y, first.fit) == (second.x, second.y, second.fit)
    assert (first.mask == second.mask).all()
    assert (image == before).all()


@pytest.mark.parametrize("value", [0, 127, 255])
def test_flat_grey_has_no_objects(value: int) -> None:
    assert recognise(np.full((SIZE, SIZE, 3), value, np.uint8)).items == ()


def test_noise_is_read_without_error() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    assert recognise(noise).background in scenes.BACKGROUNDS


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
    ],
)
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Expected an image uint8\[128 128 3\], got .*; resize"):
        recognise(image)


def found(shape: str, colour: str, pattern: str = "plain") -> Found:
    return Found(shape, colour, pattern, 64.0, 64.0, 20.0, 1.0, np.zeros((SIZE, SIZE), bool))


def test_matches_pairs_for_the_most_right() -> None:
    reading = Reading("sand", (found("star", "red"), found("star", "blue", "dotted")))
    wanted = [{"shape": "star"}, {"shape": "star", "colour": "red"}]
    assert matches(reading, wanted) == [{"shape": True}, {"shape": True, "colour": True}]
    assert matches(reading, [{"colour": "blue", "pattern": "striped"}]) == [
        {"colour": True, "pattern": False}
    ]


def test_matches_uses_each_object_once() -> None:
    reading = Reading("sand", (found("star", "red"), found("ring", "blue")))
    assert matches(reading, [{"shape": "star"}, {"shape": "star"}]) in (
        [{"shape": True}, {"shape": False}],
        [{"shape": False}, {"shape": True}],
    )


def test_matches_of_an_absent_object_is_all_false() -> None:
    wanted = [{"shape": "ring", "colour": "red"}, {"shape": "star", "colour": "red"}]
    assert matches(Reading("sand", (found("star", "red"),)), wanted) == [
        {"shape": False, "colour": False},
        {"shape": True, "colour": True},
    ]
    assert matches(Reading("sand", ()), [{"shape": "ring"}]) == [{"shape": False}]


def test_matches_of_nothing_wanted() -> None:
    reading = Reading("sand", (found("star", "red"),))
    assert matches(reading, []) == []
    assert matches(reading, [{}]) == [{}]


def test_matches_refuses_other_attributes() -> None:
    with pytest.raises(ValueError, match="Expected shape, colour or pattern, got 'size'; leave"):
        matches(Reading("sand", ()), [{"size": "big"}])
