"""Pictures written with what they were made with, and other files: whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import appearing

Pictures = Mapping[str, np.ndarray]
"""uint8[height width 3 or none] by name."""

Made = tuple[Pictures, dict[str, Any]]
"""Pictures and what they were made with."""

KEY = "p2p"
"""Of the text in a PNG file that holds the parameters, as JSON."""


def read_parameters(path: Path) -> dict[str, Any]:
    """Read what a picture was made with; nothing for a file missing or of another make."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            found = json.loads(picture.info[KEY])
    except (OSError, SyntaxError, KeyError, ValueError, RecursionError, TypeError):
        return {}
    except Image.DecompressionBombError:
        return {}
    return found if isinstance(found, dict) else {}


def write_pictures(
    folder: Path, pictures: Pictures, parameters: Mapping[str, Any]
) -> dict[str, str]:
    """Write each into a PNG file of its own; returns paths, raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text(KEY, json.dumps(parameters))
    files: dict[str, str] = {}
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        with appearing(path) as part:
            Image.fromarray(picture).save(part, format="PNG", pnginfo=text)
        files[name] = str(path)
    return files


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, on a line of its own even after one cut short."""
    with path.open("a+b") as file:
        start = file.seek(0, 2)
        if start:
            file.seek(start - 1)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(f"{line}\n".encode())
