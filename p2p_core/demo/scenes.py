"""The demo world: scenes as values, their pictures and their captions.

A scene is one or two coloured, patterned shapes on a ground that has features no caption ever
mentions (a horizon, boulders, and places where each shape is found more often than elsewhere).
Captions leave most things out, as captions do, so changing a word and nothing else changes the
whole picture of an uncontrolled model. Because the renderer is ours, every edit has a true answer:
the same scene with that one thing changed.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

SIZE = 128
"""Height and width of a rendered scene, in pixels."""

_SUPERSAMPLE = 4

PITCH = 12
"""Distance of stripes, and nearly of dots, in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "orange": (246, 138, 22),
    "yellow": (250, 224, 40),
    "green": (24, 138, 56),
    "blue": (34, 78, 214),
    "purple": (124, 44, 164),
    "pink": (250, 130, 190),
    "black": (24, 22, 26),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "snow": (238, 242, 248),
    "sand": (226, 204, 160),
    "grass": (158, 196, 122),
    "sky": (146, 202, 242),
    "sea": (52, 128, 140),
    "night": (44, 50, 92),
    "stone": (136, 136, 140),
    "clay": (150, 94, 76),
}

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
PATTERNS = ("plain", "striped", "dotted")
SMALL_RADIUS = (15.0, 19.0)
BIG_RADIUS = (27.0, 33.0)
LOWER_GROUND = 0.75
"""The ground below the horizon is the ground's colour times this."""
BOULDER_SHADES = (0.5, 0.62, 1.25)
"""A boulder is the ground's colour times one of these."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "ring": ("ring", "ring", "hoop"),
    "moon": ("moon", "moon", "crescent"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "small": ("small", "small", "tiny", "little"),
    "big": ("big", "big", "large", "huge"),
}

_KINDS = (
    tuple(COLOURS),
    tuple(BACKGROUNDS),
    (*SHAPES, "disc", "ball", "box"),
    ("plain", "striped", "dotted", "spotted"),
)
"""Words that take each other's place in `decoys`; each one token of CLIP's."""

GROUND_PHRASES: dict[str, tuple[str, ...]] = {
    "snow": ("on snow", "in the snow"),
    "sand": ("on sand", "on the sand"),
    "grass": ("on grass", "on the grass"),
    "sky": ("in the sky",),
    "sea": ("in the sea", "on the sea"),
    "night": ("at night", "in the night"),
    "stone": ("on stone", "on a stone floor"),
    "clay": ("on clay", "on the clay"),
}


@dataclass(frozen=True)
class Item:
    """One object: what it is and where (centre and radius in pixels)."""

    shape: str
    colour: str
    pattern: str
    x: float
    y: float
    radius: float

    @property
    def size(self) -> str | None:
        """The size word that fits, or None for a middling radius."""
        if self.radius <= SMALL_RADIUS[1]:
            return "small"
        return "big" if self.radius >= BIG_RADIUS[0] else None


@dataclass(frozen=True)
class Scene:
    """A picture as a value.

    `boulders` are (x, y, radius, shade) and `horizon` is (height, slope): never captioned.
    """

    items: tuple[Item, ...]
    background: str
    horizon: tuple[float, float]
    boulders: tuple[tuple[float, float, float, float], ...]

    def with_item(self, index: int, **changes: object) -> Scene:
        """Change item `index` of the scene: the true answer to an edit."""
        items = list(self.items)
        items[index] = replace(items[index], **changes)  # type: ignore[arg-type]
        return replace(self, items=tuple(items))


def _polygon(corners: int, inner: float = 1.0, start: float = -90.0) -> list[tuple[float, float]]:
    count = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if i % 2 == 0 or inner == 1.0 else inner for i in range(count)]
    angles = [math.radians(start + 360.0 * i / count) for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for i in range(72):
        t = 2 * math.pi * i / 72
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((x / 16.5, (y + 1.5) / 16.5))
    return points


def _cross() -> list[tuple[float, float]]:
    a, b = 1.0, 0.36
    return [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(x * 1.08, y * 1.08 + 0.2) for x, y in _polygon(3)],
    "star": [(x * 1.1, y * 1.1 + 0.06) for x, y in _polygon(5, inner=0.42)],
    "heart": _heart(),
    "cross": _cross(),
}


@lru_cache(maxsize=4096)
def item_mask(item: Item) -> Image.Image:
    """Compute the coverage of the item's outline, pattern ignored.

    A mode-"L" picture, SIZE × SIZE, anti-aliased.
    """
    return _outline(item).resize((SIZE, SIZE), Image.Resampling.BOX)


def _outline(item: Item) -> Image.Image:
    s = _SUPERSAMPLE
    mask = Image.new("L", (SIZE * s, SIZE * s), 0)
    draw = ImageDraw.Draw(mask)
    x, y, r = item.x * s, item.y * s, item.radius * s

    def disc(cx: float, cy: float, radius: float, fill: int) -> None:
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=fill)

    if item.shape in _OUTLINES:
        draw.polygon([(x + px * r, y + py * r) for px, py in _OUTLINES[item.shape]], fill=255)
    else:
        disc(x, y, r, 255)
        if item.shape == "ring":
            disc(x, y, 0.52 * r, 0)
        elif item.shape == "moon":
            disc(x + 0.52 * r, y - 0.12 * r, 0.78 * r, 0)
    return mask


def _pattern_mask(item: Item, mask: Image.Image) -> Image.Image:
    """Where the item shows its pattern's light second colour instead of its own."""
    s = _SUPERSAMPLE
    pattern = Image.new("L", mask.size, 0)
    draw = ImageDraw.Draw(pattern)
    x, y, reach = item.x * s, item.y * s, item.radius * s * 1.3
    pitch = PITCH * s
    count = int(reach // pitch) + 1
    for i in range(-count, count + 1):
        if item.pattern == "striped":
            draw.rectangle(
                (x - reach, y + i * pitch - pitch // 4, x + reach, y + i * pitch + pitch // 4),
                fill=255,
            )
        else:
            for j in range(-count, count + 1):
                cx, cy, r = x + (i + 0.5 * (j % 2)) * pitch * 1.1, y + j * pitch, 3.2 * s
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    return ImageChops.multiply(pattern, mask)


def pattern_coverage(item: Item) -> np.ndarray:
    """Compute where the item's pattern would be light if its outline were the whole picture.

    float[SIZE SIZE], 0 to 1.
    """
    everywhere = Image.new("L", (SIZE * _SUPERSAMPLE, SIZE * _SUPERSAMPLE), 255)
    mask = _pattern_mask(item, everywhere).resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(mask, dtype=float) / 255


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, round(c * factor))) for c in colour)
    return red, green, blue


def render(scene: Scene) -> np.ndarray:
    """Draw the scene, anti-aliased: uint8[SIZE SIZE 3]."""
    s = _SUPERSAMPLE
    ground = BACKGROUNDS[scene.background]
    image = Image.new("RGB", (SIZE * s, SIZE * s), ground)
    draw = ImageDraw.Draw(image)
    height, slope = scene.horizon
    edge = [
        (-8 * s, (height - slope * (SIZE / 2 + 8)) * s),
        ((SIZE + 8) * s, (height + slope * (SIZE / 2 + 8)) * s),
    ]
    draw.polygon(
        [*edge, ((SIZE + 8) * s, 2 * SIZE * s), (-8 * s, 2 * SIZE * s)],
        fill=_shade(ground, LOWER_GROUND),
    )
    for x, y, radius, shade in scene.boulders:
        box = ((x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s)
        draw.ellipse(box, fill=_shade(ground, shade))
    for item in scene.items:
        mask = _outline(item)
        image.paste(COLOURS[item.colour], mask=mask)
        if item.pattern != "plain":
            image.paste((252, 250, 244), mask=_pattern_mask(item, mask))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def _radius(rng: random.Random) -> float:
    low, high = rng.choice((SMALL_RADIUS, BIG_RADIUS, (SMALL_RADIUS[1], BIG_RADIUS[0])))
    return rng.uniform(low, high)


def _place_of(shape: str, radius: float, rng: random.Random) -> tuple[float, float]:
    """A centre in pixels: for half of the objects around the shape's usual place, else anywhere.

    Things keep to places in pictures without captions saying so; the usual places lie on a circle.
    """
    low, high = radius + 3, SIZE - radius - 3
    if rng.random() < 0.5:
        return rng.uniform(low, high), rng.uniform(low, high)
    angle = 2 * math.pi * SHAPES.index(shape) / len(SHAPES)
    x = rng.gauss(SIZE / 2 + 24 * math.cos(angle), 8)
    y = rng.gauss(SIZE / 2 + 24 * math.sin(angle), 8)
    return min(max(x, low), high), min(max(y, low), high)


def sample_scene(rng: random.Random) -> Scene:
    """Draw a random scene: one or two objects that never touch, boulders beside them."""
    background = rng.choice(tuple(BACKGROUNDS))
    items: list[Item] = []
    wanted = 2 if rng.random() < 0.4 else 1
    while len(items) < wanted:
        radius = _radius(rng) if wanted == 1 else min(_radius(rng), 26.0)
        shape = rng.choice(SHAPES)
        x, y = _place_of(shape, radius, rng)
        item = Item(
            shape=shape,
            colour=rng.choice([c for c in COLOURS if is_visible(c, background)]),
            pattern=rng.choice(("plain", "plain", "striped", "dotted")),
            x=x,
            y=y,
            radius=radius,
        )
        if (
            items
            and math.dist((item.x, item.y), (items[0].x, items[0].y))
            < 1.15 * (radius + items[0].radius) + 3
        ):
            if rng.random() < 0.05:
                items.clear()
            continue
        items.append(item)
    horizon = (rng.uniform(0.2, 1.1) * SIZE, rng.uniform(-0.3, 0.3))
    boulders: list[tuple[float, float, float, float]] = []
    for _ in range(rng.choice((0, 4, 6, 8))):
        x, y, r = rng.uniform(4, SIZE - 4), rng.uniform(4, SIZE - 4), rng.uniform(3.0, 9.0)
        if all(math.dist((x, y), (i.x, i.y)) > 1.15 * i.radius + r + 2 for i in items):
            boulders.append((x, y, r, rng.choice(BOULDER_SHADES)))
    return Scene(tuple(items), background, horizon, tuple(boulders))


def is_visible(colour: str, background: str) -> bool:
    """Tell whether the colour stands out from the ground: else a scene is never drawn."""
    return not (background == "night" and colour in ("black", "blue", "purple"))


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Say whether training never sees this combination: one in eight of shape, colour and ground.

    So evaluation asks for what the model never saw together.
    """
    return zlib.crc32(f"{shape} {colour} {background}".encode()) % 8 == 0


def has_held_out(scene: Scene) -> bool:
    """Tell whether any object of the scene is a held-out combination."""
    return any(is_held_out(item.shape, item.colour, scene.background) for item in scene.items)


def _word(word: str, rng: random.Random) -> str:
    return rng.choice(SYNONYMS.get(word, (word,)))


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _noun_phrase(item: Item, rng: random.Random) -> list[str]:
    words: list[str] = []
    if item.size and rng.random() < 0.35:
        words.append(_word(item.size, rng))
    if (item.pattern != "plain" and rng.random() < 0.9) or (
        item.pattern == "plain" and rng.random() < 0.2
    ):
        words.append(_word(item.pattern, rng))
    if rng.random() < 0.92:
        words.append(item.colour)
    words.append(_word(item.shape, rng))
    return with_article(" ".join(words)).split()


def _place(item: Item) -> str | None:
    third = SIZE / 3
    column, row = int(item.x // third), int(item.y // third)
    return {
        (1, 1): "in the middle",
        (0, 1): "on the left",
        (2, 1): "on the right",
        (1, 0): "at the top",
        (1, 2): "at the bottom",
    }.get((column, row))


def relation(first: Item, second: Item) -> str:
    """Say how the first item lies to the second: "left of", "right of", "above" or "below"."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def caption(scene: Scene, rng: random.Random) -> str:
    """Choose one of many sentences that are true of the scene; most leave most of it out."""
    return " ".join(word for word, _ in worded(scene, rng))


def worded(scene: Scene, rng: random.Random) -> list[tuple[str, int | None]]:
    """Choose a caption: its words, each with the index of the object that it describes, if any."""
    order = list(range(len(scene.items)))
    rng.shuffle(order)
    phrases = [
        [(word, None if word in ("a", "an") else n) for word in _noun_phrase(scene.items[n], rng)]
        for n in order
    ]
    words: list[tuple[str, int | None]] = list(phrases[0])
    if len(order) == 1:
        place = _place(scene.items[0])
        if place and rng.random() < 0.25:
            words += _plain(place)
    else:
        roll = rng.random()
        if roll < 0.55:
            between = relation(*(scene.items[n] for n in order))
        else:
            between = "next to" if roll < 0.7 else "and"
        words += [*_plain(between), *phrases[1]]
    if rng.random() < 0.85:
        words += _plain(rng.choice(GROUND_PHRASES[scene.background]))
    prefix = rng.choice(("", "", "", "", "a picture of", "a drawing of", "there is"))
    return [*_plain(prefix), *words]


def decoys(
    words: list[tuple[str, int | None]], rng: random.Random
) -> tuple[list[str], list[str], list[str], list[int]]:
    """Vary a caption three times: some attribute words are any of their kind; say which are not.

    The first and the second tell the truth in half of the attribute words each, the third in none;
    the marks, 0, 1 or 2, say which caption is true in each word, 2 for words that are no attribute.
    """
    captions: tuple[list[str], list[str], list[str]] = ([], [], [])
    marks: list[int] = []
    for word, _ in words:
        kind = next((kind for kind in _KINDS if word in kind), None)
        marks.append(2 if kind is None else rng.randrange(2))
        for number, caption in enumerate(captions):
            caption.append(word if kind is None or number == marks[-1] else rng.choice(kind))
    return *captions, marks


def _plain(text: str) -> list[tuple[str, int | None]]:
    """Words that describe no object."""
    return [(word, None) for word in text.split()]
