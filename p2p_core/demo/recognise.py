"""Say what a picture of the demo world shows, by matching it against the renderer.

The judge of generated pictures, which only nearly look like rendered ones: colours a little off,
edges soft, outlines blobby. It never needs the scene that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
from scipy import ndimage

from . import scenes
from .scenes import (
    BACKGROUNDS,
    BOULDER_SHADES,
    COLOURS,
    LOWER_GROUND,
    PATTERNS,
    SHAPES,
    SIZE,
)

LIGHT = (252.0, 250.0, 244.0)
"""The second colour of striped and dotted objects."""

SMALLEST = 90
"""Area in pixels that makes an object: more than a boulder's, less than that of any small shape."""

LARGEST = SIZE * SIZE // 2
"""Area in pixels above which it is no object but an unknown ground."""

_UNIT = 48.0
_BOX = np.ones((3, 3), bool)
_YS, _XS = np.mgrid[:SIZE, :SIZE] + 0.5
_PALETTE = np.array(list(COLOURS.values()), float)


@dataclass(frozen=True)
class Found:
    """One object: what it is, its centre and radius in pixels, and how well that explains it.

    `fit` is the IoU, 0 to 1, of `mask` (its filled outline, bool[SIZE SIZE]) and the best rendered
    outline; of an object striped in light on snow, of the parts that can be seen.
    """

    shape: str
    colour: str
    pattern: str
    x: float
    y: float
    radius: float
    fit: float
    mask: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What a picture shows: its ground and its objects, the largest area first."""

    background: str
    items: tuple[Found, ...]


@dataclass(frozen=True)
class _Outline:
    """A shape and its centre and radius: (x, y, radius)."""

    shape: str
    place: tuple[float, float, float]


@dataclass(frozen=True)
class _View:
    """A picture, float[SIZE SIZE 3], with its ground and the light colour of patterns as here."""

    pixels: np.ndarray
    background: str
    ground: np.ndarray
    light: np.ndarray

    @property
    def snow(self) -> bool:
        """Whether light parts of a pattern can hardly be told from the ground."""
        return self.background == "snow"


def recognise(image: np.ndarray) -> Reading:
    """Read a picture, uint8[SIZE SIZE 3]; raises ValueError for any other shape or type."""
    if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"Expected an image uint8[{SIZE} {SIZE} 3], got {image.dtype}{list(image.shape)}; "
            f"resize it to {SIZE} × {SIZE} RGB and scale it to 0..255."
        )
    view = _view(image.astype(float))
    found = [_identify(view, part, colour) for part, colour in _parts(view)]
    kept = [item for item in found if item is not None]
    return Reading(view.background, tuple(sorted(kept, key=lambda item: -int(item.mask.sum()))))


def matches(reading: Reading, items: Sequence[Mapping[str, str]]) -> list[dict[str, bool]]:
    """Match expected objects with a picture's, and say which attributes of each it shows.

    Expected objects map any of "shape", "colour" and "pattern" to a value; what they leave out may
    be anything. Each is paired with a different found object so that most attributes are right; one
    that is left without a partner has all of them wrong. Raises ValueError for any other attribute.
    """
    for key in {key for item in items for key in item}:
        if key not in ("shape", "colour", "pattern"):
            raise ValueError(f"Expected shape, colour or pattern, got {key!r}; leave it out.")
    partners = [*reading.items, *[None] * max(0, len(items) - len(reading.items))]
    pairings = (
        [
            {key: getattr(partner, key, None) == value for key, value in item.items()}
            for item, partner in zip(items, chosen, strict=True)
        ]
        for chosen in permutations(partners, len(items))
    )
    return max(pairings, key=lambda rights: sum(sum(right.values()) for right in rights))


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...c,...c->...", vectors, vectors))


def _distance(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """From each pixel [... 3] to each colour [n 3]: float[... n]."""
    return np.stack([_norm(pixels - colour) for colour in colours], axis=-1)


def _off_line(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the shades of the ground from below the horizon to 1."""
    shade = np.clip(pixels @ ground / (ground @ ground), LOWER_GROUND, 1.0)
    return _norm(pixels - shade[..., None] * ground)


def _view(pixels: np.ndarray) -> _View:
    """The background that explains most pixels, those of the border above all."""
    few = pixels[::2, ::2]
    weight = np.ones(few.shape[:2])
    weight[2:-2, 2:-2] = 0.25
    cost = {
        name: float((weight * np.minimum(_off_line(few, np.array(rgb, float)), 40)).sum())
        for name, rgb in BACKGROUNDS.items()
    }
    name = min(cost, key=lambda key: cost[key])
    ground, light = np.array(BACKGROUNDS[name], float), np.array(LIGHT)
    near = pixels[_off_line(pixels, ground) < 30]
    if len(near):
        lower = _distance(near, np.stack((ground, LOWER_GROUND * ground))).argmin(-1)
        shade = np.where(lower, LOWER_GROUND, 1.0)
        cast = np.clip(np.median(near / (shade[:, None] * ground), axis=0), 0.85, 1.15)
        ground = ground * cast
        if name == "snow":
            light = np.minimum(light * cast, 255)
    return _View(pixels, name, ground, light)


def _parts(view: _View) -> list[tuple[np.ndarray, int]]:
    """Connected foreground, one colour each: bool[SIZE SIZE] and the colour's index."""
    boulders = np.minimum(np.outer(BOULDER_SHADES, view.ground), 255)
    palette = _distance(view.pixels, np.concatenate((_PALETTE, [LIGHT], boulders)))
    ground = _off_line(view.pixels, view.ground)
    labels = np.concatenate((palette, ground[..., None]), axis=-1).argmin(-1)
    light = len(_PALETTE)
    trust = np.exp(-((palette.min(-1) / 40) ** 2))  # blends of two colours may look like a third
    # Bridge light stripes where they are snow; elsewhere the blend of two stripes, often a grey.
    if view.snow:
        front = ndimage.binary_closing(labels < light, np.ones((11, 3), bool))
    else:
        front = ndimage.binary_closing(labels <= light, np.ones((5, 3), bool))
    components, _ = ndimage.label(front, _BOX)
    parts: list[tuple[np.ndarray, int]] = []
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    for index in np.flatnonzero((sizes >= SMALLEST) & (sizes <= LARGEST)):
        part = components == index
        votes = np.bincount(labels[part], trust[part], minlength=light)[:light]
        cores = {
            int(colour): ndimage.binary_opening(part & (labels == colour), _BOX)
            for colour in np.flatnonzero(votes >= 15)
        }
        areas = {colour: int(core.sum()) for colour, core in cores.items()}
        main = [c for c, area in areas.items() if area >= max(60, 0.2 * sum(areas.values()))]
        if len(main) > 1:  # two objects that touch
            apart = [ndimage.distance_transform_edt(~cores[colour]) for colour in main]
            nearest = np.argmin(apart, axis=0)
            parts += [(part & (nearest == place), colour) for place, colour in enumerate(main)]
        elif main or votes.max() >= 0.05 * part.sum():
            parts.append((part, main[0] if main else int(votes.argmax())))
    if view.snow and len(parts) <= 6:  # more are no picture of this world, and slow to pair
        return _joined(view, parts)
    return parts


def _joined(view: _View, parts: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
    """`parts`, with the halves of one object that light stripes cut in two put together."""
    for (one, colour), (other, same) in combinations(parts, 2):
        if colour == same:
            fits = [
                found.fit if (found := _identify(view, part, colour)) else 0.0
                for part in (one | other, one, other)
            ]
            if fits[0] > max(fits[1:]):
                rest = [(p, c) for p, c in parts if p is not one and p is not other]
                return _joined(view, [*rest, (one | other, colour)])
    return parts


def _evidence(view: _View, part: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How much of each pixel is the object's, 0 to 1: float[SIZE SIZE]."""
    off = _off_line(view.pixels, view.ground)
    near = _distance(view.pixels, np.stack((own, view.light)))
    share = off / (off + (near[..., 0] if view.snow else near.min(-1)) + 1e-6)
    if view.snow:  # light on snow is faint: judge it without the noise
        smooth = ndimage.gaussian_filter(view.pixels, (1.0, 1.0, 0.0))
        off = _off_line(smooth, view.ground)
        light = _distance(smooth, view.light[None])[..., 0]
        faint = np.clip(1.6 * off / (off + light + 1e-6) - 0.3, 0, 1)
        share = np.maximum(share, np.where(light < 30, faint, 0))
    region = ndimage.binary_dilation(part, _BOX, iterations=8 if view.snow else 2)
    return ndimage.grey_closing(share * region, (3, 3))


def _identify(view: _View, part: np.ndarray, colour: int) -> Found | None:
    mine = part & (_distance(view.pixels, _PALETTE[colour][None])[..., 0] < 60)
    inner = ndimage.binary_erosion(mine, _BOX)
    chosen = inner if inner.sum() >= 20 else mine if mine.any() else part
    own = np.median(view.pixels[chosen], axis=0)
    share = _evidence(view, part, own)
    solid = _solid(share > 0.5, part)
    if solid.sum() < SMALLEST:
        return None
    outline, soft = _best_outline(np.where(ndimage.binary_dilation(solid, _BOX), share, 0))
    cover = _coverage(outline) > 0.5
    fit = float((solid & cover).sum() / (solid | cover).sum())
    if view.snow and soft < 0.85:  # light parts may be missing: fit what striped ones would leave
        near = _distance(view.pixels, np.stack((own, view.ground)))
        seen = np.clip(1.6 * near[..., 1] / (near.sum(-1) + 1e-6) - 0.3, 0, 1)
        seen *= ndimage.binary_dilation(part, _BOX, iterations=3)
        striped, fit_seen = _best_outline(seen, striped=True)
        if fit_seen > soft:
            outline, fit, cover = striped, fit_seen, _coverage(striped) > 0.5
            solid = _solid((seen > 0.5) | cover & (near.argmin(-1) == 1), part)
    pattern = _pattern(view, outline, solid, own)
    return Found(outline.shape, list(COLOURS)[colour], pattern, *outline.place, fit, solid)


def _solid(mask: np.ndarray, part: np.ndarray) -> np.ndarray:
    """`mask` where it hangs together with `part`, its pinholes filled."""
    pieces, count = ndimage.label(mask, _BOX)
    sizes = np.bincount(pieces[part], minlength=count + 1)
    keep = sizes >= 12
    keep[0] = False
    solid = keep[pieces]
    holes, _ = ndimage.label(~solid)
    small = np.bincount(holes.ravel()) < 45
    small[0] = False
    return solid | small[holes]


@lru_cache(maxsize=1)
def _units() -> dict[str, np.ndarray]:
    """Each shape's coverage at radius `_UNIT` around the middle: float32[SIZE SIZE]."""
    middle = SIZE / 2
    items = (scenes.Item(s, "red", "plain", middle, middle, _UNIT) for s in SHAPES)
    return {i.shape: np.asarray(scenes.item_mask(i), np.float32) / 255 for i in items}


def _coverage(outline: _Outline) -> np.ndarray:
    everywhere = np.arange(SIZE)
    return _sample(_units()[outline.shape], everywhere, everywhere, *outline.place)


def _sample(
    unit: np.ndarray, rows: np.ndarray, columns: np.ndarray, x: float, y: float, radius: float
) -> np.ndarray:
    scale, middle = _UNIT / radius, SIZE / 2
    down = np.clip((rows + 0.5 - y) * scale + middle, 0, SIZE - 1).astype(np.intp)
    across = np.clip((columns + 0.5 - x) * scale + middle, 0, SIZE - 1).astype(np.intp)
    return unit.take(down, 0).take(across, 1)


def _best_outline(share: np.ndarray, striped: bool = False) -> tuple[_Outline, float]:
    """The outline that covers `share`, float[SIZE SIZE] in 0 to 1, best, and its soft IoU.

    With `striped`, `share` is compared with what light stripes leave of the outline.
    """
    margin = 10 if striped else 4
    rows, columns = (np.flatnonzero(share.any(axis)) for axis in (1, 0))
    rows = np.arange(max(rows[0] - margin, 0), min(rows[-1] + margin + 1, SIZE))
    columns = np.arange(max(columns[0] - margin, 0), min(columns[-1] + margin + 1, SIZE))
    crop = share[np.ix_(rows, columns)].astype(np.float32)
    total = float(crop.sum())
    cx = float(crop.sum(0) @ (columns + 0.5)) / total
    cy = float(crop.sum(1) @ (rows + 0.5)) / total
    units = _units()
    areas = {shape: float(unit.sum()) for shape, unit in units.items()}

    def score(shape: str, place: tuple[float, float, float]) -> float:
        x, y, radius = place
        cover = _sample(units[shape], rows, columns, x, y, radius)
        if striped:
            shown = 1 - _stripes(rows + 0.5 - y)
            area = float(shown @ cover.sum(1))
            both = float(shown @ np.einsum("yx,yx->y", cover, crop))
        else:  # whole, though the crop may cut it
            area = areas[shape] * (radius / _UNIT) ** 2
            both = float(np.vdot(cover, crop))
        return both / (area + total - both)

    starts: list[tuple[float, str, tuple[float, float, float]]] = []
    for shape, unit in units.items():
        ux = float(unit.sum(0) @ _XS[0]) / areas[shape] - SIZE / 2
        uy = float(unit.sum(1) @ _YS[:, 0]) / areas[shape] - SIZE / 2
        radius = _UNIT * ((2 if striped else 1) * total / areas[shape]) ** 0.5
        for r in (0.92 * radius, radius, 1.08 * radius):
            for dy in (-6, -3, 0, 3, 6) if striped else (0,):
                place = (cx - ux * r / _UNIT, cy - uy * r / _UNIT + dy, r)
                starts.append((score(shape, place), shape, place))
    best: dict[str, tuple[float, tuple[float, float, float]]] = {}
    for value, shape, place in sorted(starts, reverse=True):
        best.setdefault(shape, (value, place))
    for shape in list(best)[:4]:
        value, place = best[shape]
        for step in (2.0, 1.0, 0.5, 0.25):
            improved = True
            while improved:
                improved = False
                for axis in (0, 1, 2):
                    for move in (-step, step):
                        trial = list(place)
                        trial[axis] += move
                        new = (trial[0], trial[1], max(trial[2], 4.0))
                        if (tried := score(shape, new)) > value + 1e-5:
                            value, place, improved = tried, new, True
        best[shape] = (value, place)
    shape = max(best, key=lambda name: best[name][0])
    return _Outline(shape, best[shape][1]), best[shape][0]


def _stripes(down: np.ndarray) -> np.ndarray:
    """How light a striped object is at these heights below its centre."""
    return np.clip(3.5 - np.abs(down - 12 * np.round(down / 12)), 0, 1)


def _pattern(view: _View, outline: _Outline, mask: np.ndarray, own: np.ndarray) -> str:
    """The pattern whose light parts lie most like those inside the outline and the mask."""
    x, y, _ = outline.place
    span = view.light - own
    inside = (_coverage(outline) > 0.6) & mask
    lit = np.clip((view.pixels[inside] - own) @ span / (span @ span), 0, 1)
    down, across = _YS[inside] - y, _XS[inside] - x

    def error(pattern: str, dx: int, dy: int) -> float:
        if pattern == "striped":
            expected = _stripes(down - dy)
        else:
            row = np.round((down - dy) / 12)
            high = down - dy - 12 * row
            along = (across - dx) / 13.2 - 0.5 * (row % 2)
            expected = np.clip(3.7 - np.hypot(high, 13.2 * (along - np.round(along))), 0, 1)
        return float(((lit - expected) ** 2).mean())

    shifts = range(-2, 3)
    errors = {
        "plain": 1.5 * float((lit**2).mean()),  # the least when it is right, by far
        "striped": min(error("striped", 0, dy) for dy in shifts),
        "dotted": min(error("dotted", dx, dy) for dx in shifts for dy in shifts),
    }
    return min(PATTERNS, key=lambda pattern: errors[pattern])
