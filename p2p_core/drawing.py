"""Drawing word maps: in colours on the image, with the word above it (paper figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .attention_maps import Seen, enlarged, normalised

PLAIN_SIDE = 256
"""Shorter side in pixels of a drawing that has no image to lie on, and of any at the least."""

STRIP, STRIP_SIDE = 8, 128
"""Steps that a strip shows at most, and the shorter side in pixels of each.

A map has few cells, and there is a strip for every word of every row.
"""

MOST_CELLS, MOST_STEPS = 64, 64
"""Of a map that is given as data: its longer side, and how many steps there are at most."""

VIRIDIS = (
    *("#440154", "#482576", "#414487", "#35608d", "#2a788e", "#21908c"),
    *("#22a884", "#43bf71", "#7ad151", "#bbdf27", "#fde725"),
)
"""Colours from 0 to 1 whose lightness grows evenly (van der Walt and Smith 2015)."""

OPAQUE = 0.65
"""How much of a drawing is the map's colour; the rest is the image, in grey."""


@dataclass(frozen=True)
class Drawings:
    """`heatmaps` float[seen height width 3], `maps` float[seen h w], `steps` small, side by side.

    All in 0–1, one for every `Seen`; what is drawn has a caption above it.
    """

    heatmaps: Tensor
    maps: Tensor
    steps: Tensor


def draw(
    seen: Sequence[Seen],
    images: Sequence[Tensor | None],
    names: Sequence[str] = (),
    *,
    common: bool = False,
) -> Drawings:
    """Draw maps over the images of their rows.

    Args:
        seen: word maps.
        images: of every row, float[height width 3] in 0–1, None for no image.
        names: what each row is called in the captions; left out, they are the words alone.
        common: whether all are drawn on one scale; else each is divided by its own maximum.

    Raises:
        ValueError: for images of different sizes.
    """
    sizes = {image.shape for image in images if image is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected images of one size, got {sorted(tuple(size) for size in sizes)}. "
            "Connect the decoded images of the run that is looked at."
        )
    maps = torch.stack([one.mean for one in seen]).cpu()
    height, width = _size(maps, sizes.pop() if sizes else None)
    blank = torch.full((height, width, 3), 0.75)
    scale = STRIP_SIDE / min(height, width)
    frame = torch.full((round(height * scale), round(width * scale), 3), 0.75)
    chosen = spread(len(seen[0].steps), STRIP)
    steps = torch.stack([one.steps[chosen].cpu() for one in seen])
    shown, shown_steps = (scaled(some, common) for some in (maps, steps))
    numbers = [seen[0].numbers[n] if seen[0].numbers else n + 1 for n in chosen]
    # at the images' size these are large: each is drawn into its place
    heatmaps = torch.empty(len(seen), height + _bar(height), width, 3)
    strips = torch.empty(
        len(seen), frame.shape[0] + 2 * _bar(frame.shape[0]), len(chosen) * frame.shape[1], 3
    )
    for n, one in enumerate(seen):
        image = images[one.row]
        image = blank if image is None else _fitted(image.cpu().float(), height, width)
        caption = f"{names[one.row]}: {one.word}" if names else one.word
        heatmaps[n] = labelled(heatmap(shown[n], image), caption)
        parts = [
            labelled(heatmap(step, frame), f"step {number}")
            for step, number in zip(shown_steps[n], numbers, strict=True)
        ]
        strips[n] = labelled(torch.cat(parts, dim=1), caption, _bar(frame.shape[0]))
    return Drawings(heatmaps, normalised(maps), strips)


def scaled(maps: Tensor, common: bool) -> Tensor:
    """Bring maps, float[seen ... h w], to 0–1: each by its own maximum, or by that of all seen."""
    if not common:
        return normalised(maps)
    most = maps.amax((0, -2, -1), keepdim=True)
    return maps / most.clamp(min=torch.finfo(maps.dtype).tiny)


def spread(count: int, most: int) -> list[int]:
    """Choose at most so many of `count` places, evenly, the first and the last among them."""
    most = min(most, count)
    return [round(n * (count - 1) / max(1, most - 1)) for n in range(most)]


def coloured(values: Tensor) -> Tensor:
    """Colour values in 0–1 by `VIRIDIS`: float[... 3] in 0–1."""
    colours = torch.tensor([list(bytes.fromhex(one[1:])) for one in VIRIDIS]) / 255
    place = values.clamp(0, 1) * (len(colours) - 1)
    below = place.floor().long().clamp(max=len(colours) - 2)
    return torch.lerp(colours[below], colours[below + 1], (place - below)[..., None])


def heatmap(map: Tensor, image: Tensor) -> Tensor:
    """Draw a map, float[h w] in 0–1, in colours on a grey image: float[height width 3] in 0–1."""
    values = enlarged(map[None], image.shape[0], image.shape[1])[0]
    grey = image.clamp(0, 1).mean(-1, keepdim=True)
    return torch.lerp(grey, coloured(values), OPAQUE)


def labelled(image: Tensor, text: str, bar: int | None = None) -> Tensor:
    """Put a bar that says `text` above an image: float[height+bar width 3] in 0–1.

    Letters are as large as the bar allows, and smaller where the text is wider than the image; of
    one that is still too wide the beginning stands there.
    """
    bar = _bar(image.shape[0]) if bar is None else bar
    width, size = image.shape[1], round(0.7 * bar)
    font = ImageFont.load_default(size=size)
    if (needed := font.getlength(text)) > width - 8:
        font = ImageFont.load_default(size=max(9, int(size * (width - 8) / needed)))
    while font.getlength(text) > width - 8 and len(text) > 1:
        text = text.rstrip("…")[:-1] + "…"
    picture = Image.new("RGB", (width, bar), "black")
    draw = ImageDraw.Draw(picture)
    draw.text((4, bar / 2), text, fill="white", font=font, anchor="lm")
    top = torch.tensor(np.asarray(picture), dtype=torch.float32) / 255
    return torch.cat([top, image.clamp(0, 1)])


@dataclass(frozen=True)
class Tiles:
    """Word maps as pictures to be coloured elsewhere: the mean, then the steps, side by side.

    `pictures`, float[seen h (1+steps)·w 3] in 0–1, has each map divided by its maximum, which
    stands in `peaks`, `seen` rows of `1+steps`; `numbers` are the steps', counted from 1.
    """

    pictures: Tensor
    peaks: list[list[float]]
    numbers: list[int]


def tiles(seen: Sequence[Seen]) -> Tiles:
    """Give maps as data, at most `MOST_CELLS` a side and `MOST_STEPS` of their steps."""
    chosen = spread(len(seen[0].steps), MOST_STEPS)
    maps = torch.stack([torch.cat([one.mean[None], one.steps[chosen]]).cpu() for one in seen])
    if (longer := max(maps.shape[-2:])) > MOST_CELLS:
        height, width = (max(1, side * MOST_CELLS // longer) for side in maps.shape[-2:])
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, (height, width))
    grey = torch.cat(list(normalised(maps).unbind(1)), dim=-1)
    return Tiles(
        grey[..., None].expand(*grey.shape, 3),
        [[float(f"{float(peak):.4g}") for peak in row] for row in maps.amax((-2, -1))],
        [seen[0].numbers[n] if seen[0].numbers else n + 1 for n in chosen],
    )


def _bar(height: int) -> int:
    return max(20, height // 9)


def _size(maps: Tensor, image: Sequence[int] | None) -> tuple[int, int]:
    """Height and width of drawings: the images', or whole cells; never too small to be read."""
    height, width = maps.shape[-2:] if image is None else image[:2]
    scale = max(1, -(-PLAIN_SIDE // min(height, width)))
    return height * scale, width * scale


def _fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Enlarge an image, float[h w 3], where drawings are larger."""
    if image.shape[:2] == (height, width):
        return image
    return enlarged(image.movedim(-1, 0), height, width).movedim(0, -1)


def per_row(images: Tensor | None, rows: int, name: str) -> list[Tensor | None]:
    """Give each of `rows` rows its image, or None.

    Raises `ValueError` for other counts and for images that are neither grey nor in colour.
    """
    if images is None:
        return [None] * rows
    if len(images) != rows:
        raise ValueError(
            f"Expected {rows} {name} images, got {len(images)}. "
            "Connect the decoded images of the run that is looked at."
        )
    if images.shape[-1] == 2:
        raise ValueError(
            f"Expected {name} images of 3 colour channels, got 2. Connect the decoded images."
        )
    return list(images[..., :3])


def to_bytes(picture: Tensor) -> np.ndarray:
    """Convert a picture in 0–1 to uint8 of the same shape."""
    return (picture * 255).round().byte().numpy()
