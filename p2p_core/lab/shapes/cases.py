"""Rendered scenes to be edited, of PIE-Bench's kinds, with their true answers.

Another object, colour, pattern or size, an attribute added or deleted, another background. The same
scene with that one thing changed is the true answer; what it leaves alone is the background to be
kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from ...demo.recognise import recognise
from ...demo.scenes import (
    BACKGROUNDS,
    BIG_RADIUS,
    COLOURS,
    GROUND_PHRASES,
    SHAPES,
    SIZE,
    SMALL_RADIUS,
    Item,
    Scene,
    is_visible,
    render,
    sample_scene,
    with_article,
)

KINDS = ("object", "colour", "pattern", "size", "add", "delete", "background")
MARGIN = 4
"""Pixels around what changes that are not yet background."""


@dataclass(frozen=True)
class Case:
    """A scene and the same scene edited, with the prompts of both."""

    kind: str
    scene: Scene
    edited: Scene
    prompt: str
    edited_prompt: str

    @property
    def kept(self) -> np.ndarray:
        """Where the true answer is as the source: bool[height width]."""
        changed = np.abs(render(self.scene).astype(int) - render(self.edited)).max(-1) > 8
        return ~binary_dilation(changed, iterations=MARGIN)

    @property
    def words(self) -> tuple[str, str]:
        """What changes, in the prompt and in the edited one."""
        named = [
            GROUND_PHRASES[scene.background][0].split()[-1]
            if self.kind == "background"
            else scene.items[0].shape
            for scene in (self.scene, self.edited)
        ]
        return named[0], named[1]

    def succeeds(self, picture: np.ndarray) -> bool:
        """Tell whether what was to change has changed, in the largest object or the ground."""
        reading, wanted = recognise(picture), self.edited.items[0]
        if self.kind == "background":
            return reading.background == self.edited.background
        if not reading.items:
            return False
        found, before = reading.items[0], self.scene.items[0]
        if self.kind == "size":
            return (found.radius > before.radius) == (wanted.radius > before.radius) and (
                abs(np.log(found.radius / before.radius)) > np.log(1.2)
            )
        attribute = {"object": "shape", "colour": "colour"}.get(self.kind, "pattern")
        return getattr(found, attribute) == getattr(wanted, attribute)


def cases(count: int, seed: int) -> Iterator[Case]:
    """Make cases, as many of each kind, as far as `count` goes."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        scene = sample_scene(rng)
        item = scene.items[0]
        case = _case(KINDS[made % len(KINDS)], replace(scene, items=(item,)), item, rng)
        if case is not None:
            made += 1
            yield case


def _case(kind: str, scene: Scene, item: Item, rng: random.Random) -> Case | None:
    """A case of this kind, or None where the scene has none."""
    ground = scene.background
    if kind == "object":
        changed = replace(item, shape=rng.choice([s for s in SHAPES if s != item.shape]))
    elif kind == "colour":
        others = [c for c in COLOURS if c != item.colour and is_visible(c, ground)]
        changed = replace(item, colour=rng.choice(others))
    elif kind == "size":
        if item.size is None:
            return None
        radius = sum(SMALL_RADIUS if item.size == "big" else BIG_RADIUS) / 2
        changed = replace(item, radius=radius)
        if not all(radius < at < SIZE - radius for at in (item.x, item.y)):
            return None
    elif kind == "background":
        others = [b for b in BACKGROUNDS if b != ground and is_visible(item.colour, b)]
        ground, changed = rng.choice(others), item
    else:
        patterns = {"pattern": ("striped", "dotted"), "add": ("plain",), "delete": ("striped",)}
        before = rng.choice(patterns[kind])
        after = (
            {"pattern": {"striped": "dotted", "dotted": "striped"}[before]}
            if (kind == "pattern")
            else {"pattern": rng.choice(("striped", "dotted")) if kind == "add" else "plain"}
        )
        item = replace(item, pattern=before)
        scene = replace(scene, items=(item,))
        changed = replace(item, **after)
    edited = replace(scene, items=(changed,), background=ground)
    sized = kind == "size"
    return Case(kind, scene, edited, _caption(scene, sized), _caption(edited, sized))


def _caption(scene: Scene, sized: bool) -> str:
    (item,) = scene.items
    size = item.size if sized else None
    pattern = None if item.pattern == "plain" else item.pattern
    words = [size, pattern, item.colour, item.shape, GROUND_PHRASES[scene.background][0]]
    return with_article(" ".join(word for word in words if word))
