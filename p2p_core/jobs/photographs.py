"""Photographs, read: upright, 8 bits a colour, and of a shape that a model can take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Pillow's names of what is read: pixels. Others it has programs draw, as Ghostscript EPS."""

LONGEST = 8
"""Times its shorter side that a photograph's longer one may be.

The shorter is scaled to the model's size, so that a picture of one row would become one of any.
"""

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def read_photograph(path: Path) -> Image.Image:
    """Read a photograph, upright, in RGB; grey of 16 bits or floats is scaled to it.

    Raises `ValueError` for a file that is no picture, for one without a known white, and for a
    shape that is too long.
    """
    with _opened(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        white = _white(picture)
        if white is None:
            return upright.convert("RGB")
        values = np.asarray(upright).astype(np.float64) / white
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"Expected numbers from 0 to {white:g} in {path}, got some from {values.min():g} "
                f"to {values.max():g}. Save it as an 8-bit PNG or JPEG."
            )
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")


def size_of_photograph(path: Path) -> tuple[int, int]:
    """Width and height, upright; raises `ValueError` for a file that does not begin as a picture,
    for one without a known white, and for a shape that is too long."""
    with _opened(path) as picture:
        return ImageOps.exif_transpose(picture).size if picture.getexif() else picture.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    Image.init()  # before which Pillow does not know which formats it has
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(path, formats=formats) as picture:
            _white(picture)
            _check_shape(picture.size, path)
            yield picture
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Expected a picture at {path}, which cannot be read: {error}. Give a PNG or a JPEG."
        ) from error


def _white(picture: Image.Image) -> float | None:
    """The number that stands for white where Pillow would clip at 255; None: it converts itself.

    Raises `ValueError` for whole numbers of 32 bits, which have none.
    """
    if picture.mode == "F":
        return 1.0
    if picture.mode in SIXTEEN_BITS or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return 65535.0
    if picture.mode == "I":
        raise ValueError(
            f"Expected a picture of 8 or 16 bits a pixel, got whole numbers of 32 bits, which no "
            f"white is known of, in a {picture.format}. Save it as an 8-bit PNG or JPEG."
        )
    return None


def _check_shape(size: tuple[int, int], path: Path) -> None:
    if max(size) > LONGEST * min(size):
        raise ValueError(
            f"Expected a picture at most {LONGEST} times as long as it is wide at {path}, got "
            f"{size[0]}×{size[1]} pixels. Crop it."
        )
