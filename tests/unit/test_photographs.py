"""Photographs: every depth of colour as it is meant, and files that are none refused."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2p_core.jobs.photographs import read_photograph, size_of_photograph

CORE = Path(__file__).resolve().parents[2] / "p2p_core"
RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


@pytest.mark.parametrize(
    ("suffix", "pixels"),
    [
        ("png", (RAMP * 255).astype("uint8")),
        ("png", (RAMP * 65535).astype("uint16")),
        ("tiff", (RAMP * 65535).astype("uint16")),
        ("tiff", (RAMP * 65535).astype(">u2")),
        ("pgm", (RAMP * 65535).astype("uint16")),
        ("tiff", RAMP.astype("float32")),
    ],
)
def test_a_ramp_is_a_ramp_at_every_depth(suffix, pixels, tmp_path):
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(pixels).save(path)
    found = np.asarray(read_photograph(path)).astype(float)
    assert found.shape == (32, 32, 3)
    assert np.abs(found - RAMP[..., None] * 255).max() < 1
    assert size_of_photograph(path) == (32, 32)


def test_a_deep_picture_is_turned_upright_too(tmp_path):
    path = tmp_path / "lying.png"
    lying = Image.fromarray((RAMP[:16] * 65535).astype("uint16"))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    lying.save(path, exif=exif)
    assert read_photograph(path).size == size_of_photograph(path) == (16, 32)


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("deep.tiff", (RAMP * 2**30).astype("int32"), "whole numbers of 32 bits"),
        ("bright.tiff", (RAMP * 255).astype("float32"), "numbers from 0 to 1 .* from 0 to 255"),
        ("broken.tiff", np.full((8, 8), np.nan, "float32"), "numbers from 0 to 1 .* from nan"),
        ("thin.png", np.zeros((4000, 1), "uint8"), "8 times as long .* got 1×4000"),
        ("thin.png", np.zeros((8, 65), "uint8"), "8 times as long .* got 65×8"),
    ],
)
def test_pictures_that_cannot_be_meant_are_refused(name, pixels, said, tmp_path):
    path = tmp_path / name
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=said):
        read_photograph(path)


@pytest.mark.parametrize("name", ["drawn.eps", "drawn.png"])
def test_no_program_is_run_for_a_picture(name, tmp_path, monkeypatch):
    """Pillow hands what begins as EPS to Ghostscript, whatever its file is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("was run"))
    (tmp_path / name).write_bytes(EPS)
    for read in (read_photograph, size_of_photograph):
        with pytest.raises(ValueError, match="cannot be read"):
            read(tmp_path / name)


def test_formats_are_named_wherever_an_image_is_opened():
    unnamed = [
        f"{file.relative_to(CORE)}:{node.lineno}"
        for file in CORE.glob("**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Image.open"
        and "formats" not in {keyword.arg for keyword in node.keywords}
    ]
    assert unnamed == []
