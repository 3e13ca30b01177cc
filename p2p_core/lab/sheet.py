"""Contact sheets: pictures side by side with a caption under each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
LINE = 13


def grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    heads: Sequence[str] = (),
    scale: int = 1,
) -> Image.Image:
    """Lay pictures, uint8[h w 3] of one size, in rows of `columns`, `heads` over the columns."""
    height, width = (side * scale for side in images[0].shape[:2])
    font = ImageFont.load_default(size=11)
    wrapped = [textwrap.wrap(caption, width=max(8, width // 6)) or [""] for caption in captions]
    rows = [
        range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)
    ]
    top = MARGIN + (LINE + 4 if heads else 0)
    heights = [height + 4 + LINE * max(len(wrapped[i]) for i in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (MARGIN + columns * (width + MARGIN), top + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((MARGIN + column * (width + MARGIN), MARGIN - 2), head, fill="black", font=font)
    for row, row_height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            sheet.paste(
                Image.fromarray(images[i]).resize((width, height), Image.Resampling.LANCZOS),
                (left, top),
            )
            for line, text in enumerate(wrapped[i]):
                draw.text((left, top + height + 3 + LINE * line), text, fill="#333", font=font)
        top += row_height
    return sheet
