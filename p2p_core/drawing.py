"""Drawing word maps: as light on the image, with the word on it (paper figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .attention_maps import Seen, enlarged, normalised

PLAIN_SIDE = 256
"""Shorter side in pixels of a drawing that has no image to lie on."""

STRIP, STRIP_SIDE = 8, 128
"""Steps that a strip shows at most, and the shorter side in pixels of each.

A map has few cells, and there is a strip for every word of every row.
"""


@dataclass(frozen=True)
class Drawings:
    """`heatmaps` float[seen height width 3], `maps` float[seen h w], `steps` small, side by side.

    All in 0–1, one for every `Seen`.
    """

    heatmaps: Tensor
    maps: Tensor
    steps: Tensor


def draw(seen: Sequence[Seen], images: Sequence[Tensor | None]) -> Drawings:
    """Draw maps over the images of their rows, float[height width 3] in 0–1, None for no image.

    Raises `ValueError` for images of different sizes.
    """
    sizes = {image.shape for image in images if image is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected images of one size, got {sorted(tuple(size) for size in sizes)}. "
            "Connect the decoded images of the run that is looked at."
        )
    maps = normalised(torch.stack([one.mean for one in seen]).cpu())
    height, width = (sizes.pop() if sizes else _plain(maps))[:2]
    blank = torch.full((height, width, 3), 0.75)
    scale = min(1.0, STRIP_SIDE / min(height, width))
    frame = torch.full((round(height * scale), round(width * scale), 3), 0.75)
    steps = len(seen[0].steps)
    chosen = torch.linspace(0, steps - 1, min(STRIP, steps)).round().long()
    # at the images' size these are large: each is drawn into its place
    heatmaps = torch.empty(len(seen), height, width, 3)
    strips = torch.empty(len(seen), frame.shape[0], len(chosen) * frame.shape[1], 3)
    for n, (one, mean) in enumerate(zip(seen, maps, strict=True)):
        image = images[one.row]
        image = blank if image is None else image.cpu().float()
        heatmaps[n] = labelled(heatmap(mean, image), one.word)
        parts = [heatmap(step, frame) for step in normalised(one.steps[chosen].cpu())]
        strips[n] = labelled(torch.cat(parts, dim=1), one.word)
    return Drawings(heatmaps, maps, strips)


def heatmap(map: Tensor, image: Tensor) -> Tensor:
    """Draw a map, float[h w] in 0–1, as light on a darkened image: float[height width 3] in 0–1."""
    light = enlarged(map[None], image.shape[0], image.shape[1])[0]
    return image * (0.2 + 0.8 * light[..., None])


def labelled(image: Tensor, text: str) -> Tensor:
    """Draw a bar that says `text` under the image's top edge: float[height width 3] in 0–1."""
    size = max(10, image.shape[0] // 14)
    image = image.clamp(0, 1)
    top = image[: 2 * size]  # the bar, and letters that reach below it
    picture = Image.fromarray(to_bytes(top))
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((0, 0, image.shape[1], size + 4), fill=(0, 0, 0, 150))
    draw.text((3, 1), text, fill="white", font=ImageFont.load_default(size=size))
    top[:] = torch.tensor(np.asarray(picture), dtype=torch.float32) / 255
    return image


def _plain(maps: Tensor) -> tuple[int, int]:
    height, width = maps.shape[-2:]
    scale = -(-PLAIN_SIDE // min(height, width))
    return height * scale, width * scale


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
