"""`p2p` from the shell: pictures, their parameters, and one line where something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from p2p_core.cli import main
from p2p_core.demo.scenes import Item, Scene, render

SOURCE = "a red circle on the grass"
FAST = ["--steps", "4", "--json"]


@pytest.fixture
def p2p(monkeypatch, capsys):
    """Runs a command: (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["p2p", *map(str, arguments)])
        try:
            status = main()
        except SystemExit as done:
            status = done.code
        told = capsys.readouterr()
        return status or 0, told.out, told.err

    return run


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    scene = Scene((Item("circle", "red", "plain", 60.0, 64.0, 30.0),), "grass", (0.9, 0.0), ())
    Image.fromarray(render(scene)).save(path)
    return path


def test_an_edit(p2p, tmp_path):
    edits = ["--swap", "circle=star", "--reweight", "red=1.5", "--blend", "circle,star"]
    status, out, _ = p2p("edit", "--source", SOURCE, *edits, "--out", tmp_path, *FAST)
    assert status == 0
    report = json.loads(out)
    assert report["edited"] == "a red star on the grass"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edited.png",
        "mask.png",
        "source.png",
    ]
    with Image.open(report["files"]["edited"]) as picture:
        assert picture.size == (128, 128)
        assert json.loads(picture.text["p2p"])["swap"] == ["circle=star"]
        edited = np.asarray(picture).astype(int)
    with Image.open(report["files"]["source"]) as picture:
        assert np.abs(np.asarray(picture) - edited).max() > 50


def test_a_photograph_is_edited_and_an_inversion_kept(p2p, tmp_path, photo):
    about = ["--image", photo, "--caption", SOURCE, "--inversion", "direct", *FAST]
    status, out, _ = p2p("invert", *about, "--out", tmp_path / "kept")
    assert status == 0
    kept = json.loads(out)["inversion_file"]
    edit = ["edit", *about, "--swap", "red=blue"]
    status, out, _ = p2p(*edit, "--out", tmp_path / "a")
    assert status == 0
    assert json.loads(out)["reconstruction_psnr"] > 60
    status, again, _ = p2p(*edit, "--out", tmp_path / "b", "--inversion-file", kept)
    assert status == 0
    one, two = (np.asarray(Image.open(tmp_path / d / "edited.png")) for d in "ab")
    assert np.array_equal(one, two)
    assert json.loads(again)["inversion"] == "direct"
    alone = ["--source", SOURCE, "--swap", "red=blue", "--inversion-file", kept, *FAST]
    assert p2p("edit", *alone, "--out", tmp_path / "c")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "c" / "edited.png")), one)


def test_a_photograph_is_turned_upright_and_scaled_to_the_model(p2p, tmp_path):
    lying = Image.linear_gradient("L").resize((600, 300)).convert("RGB")
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    lying.save(tmp_path / "phone.jpg", exif=exif)
    about = ["--image", tmp_path / "phone.jpg", "--caption", SOURCE, "--inversion", "direct"]
    assert p2p("invert", *about, "--out", tmp_path, *FAST)[0] == 0
    with Image.open(tmp_path / "reconstruction.png") as picture:
        assert picture.size == (128, 256)


def test_maps(p2p, tmp_path):
    status, out, _ = p2p(
        "maps", "--source", SOURCE, "--words", "circle, grass", "--out", tmp_path, *FAST
    )
    assert status == 0
    assert json.loads(out)["words"] == ["circle", "grass"]
    assert (tmp_path / "01_circle.png").exists()
    assert (tmp_path / "02_grass_steps.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--swap", "dog=cat"], "'dog' is not in the prompt"),
        (["--swap", "circle"], "--swap bicycle=car"),
        ([], "Expected an edit"),
        (["--reweight", "red=much"], "Expected a number"),
        (["--swap", "circle=star", "--blend", "dog"], "'dog' is not in the prompt"),
        (["--swap", "circle=star", "--model", "/none"], "does not exist"),
        (["--swap", "circle=star", "--image", "/none.png"], "cannot be read"),
        (["--swap", "circle=star", "--size", "100x100"], "multiples of 8"),
        (["--swap", "circle=star", "--denoise", "0.7"], "Expected --image"),
        (["--swap", "circle=star", "--inversion-file", "/none"], "cannot be read"),
        (["--swap", "circle=star", "--sampler", "best"], "sampler to be one of"),
        (
            ["--swap", "circle=star", "--inversion-file", "/none", "--image", "PHOTO"],
            "cannot be read",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, said, p2p, tmp_path, photo):
    arguments = [photo if part == "PHOTO" else part for part in arguments]
    out = tmp_path / "out"
    status, told, error = p2p("edit", "--source", SOURCE, "--out", out, *FAST, *arguments)
    assert status == 1
    assert told == ""
    assert said in error
    assert "Traceback" not in error
    assert not out.exists()


def test_wrong_usage(p2p):
    assert p2p("edit", "--source", SOURCE)[0] == 2
    assert p2p("edit", "--nonsense")[0] == 2


def test_nothing_is_half_written(p2p, tmp_path, monkeypatch):
    """A disk that is full while a picture is written."""

    def full(*args, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    edits = ["--swap", "circle=star", "--out", tmp_path]
    status, _, error = p2p("edit", "--source", SOURCE, *edits, *FAST)
    assert status == 1
    assert "No space left" in error
    assert list(tmp_path.iterdir()) == []


def test_help_without_a_model_or_a_host():
    """In a process of its own: quick, and nothing on the way imports a host."""
    code = (
        "import sys; sys.argv = ['p2p', 'edit', '--help']\n"
        "from p2p_core.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'comfy', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--swap" in done.stdout
