"""`p2p` from the shell: pictures, their parameters, and one line where something is wrong."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers_of_diffusers import flux
from waiting import wait_until

from p2p_core.blocks import Blocks
from p2p_core.demo.scenes import Item, Scene, render
from p2p_core.edits import ALIGNED, SHARED, Joint, Reweight, SelfInjection, WordSwap
from p2p_core.hosts.diffusers.opening import open_model
from p2p_core.hosts.diffusers.sampling import Settings, sample
from p2p_core.inversion.record import Inversion
from p2p_core.jobs.places import LOCK
from p2p_core.schedules import Schedule, Window

SOURCE = "a red circle on the grass"
FAST = ["--steps", "4", "--json"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    scene = Scene((Item("circle", "red", "plain", 60.0, 64.0, 30.0),), "grass", (0.9, 0.0), ())
    Image.fromarray(render(scene)).save(path)
    return path


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for few pictures; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


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


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("flux")
    flux().save_pretrained(folder)
    return folder


JOINT = {
    "attention": "aligned words",
    "blocks": "0, single",
    "preset": "another shape",
    "guidance": 5.0,
    "prompt_vector": "edit",
    "factors_act": "after the softmax",
}
"""Each other than where it is left out."""


def option(name):
    return "--" + name.replace("_", "-")


def test_joint_attention_is_edited_as_by_hand(p2p, tmp_path, flux_folder):
    """Each option has its part in the picture, which is that of the same edits as values."""
    changes = {"source": SOURCE, "swap": "circle=star", "reweight": "red=3", "size": "64x64"}
    model = ["--model", flux_folder, *FAST]

    def edited(out, **how):
        words = [str(part) for name, value in how.items() for part in (option(name), value)]
        status, told, error = p2p("edit", *words, *model, "--out", out)
        assert status == 0, error
        return json.loads(told), np.asarray(Image.open(out / "edited.png")).astype(int)

    told, picture = edited(tmp_path / "all", **changes, **JOINT)
    assert {name: told[name] for name in JOINT} == JOINT
    joint = Joint(ALIGNED, Blocks("0, single"), source_vector=False)
    how = {"self_injection": SelfInjection(Window(0, 0.2)), "joint": joint}
    chain = (
        WordSwap("circle", "star", schedule=Schedule(Window(0, 0.5)), **how),
        Reweight((("red", 3.0),), renormalised=False, **how),
    )
    opened = open_model(flux_folder)
    settings = Settings(4, 1.0, guidance=5.0)
    result = sample(opened, SOURCE, [chain], opened.blank(64, 64), settings, quiet=True)
    assert np.abs(opened.to_pictures(result.edited)[0] - picture).max() <= 1
    command = shlex.split(told["command"])
    assert p2p(*command[1:], "--out", tmp_path / "again")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / "edited.png")), picture)
    rest = [{k: v for k, v in JOINT.items() if k != name} for name in JOINT]
    for name, fewer in zip(JOINT, rest, strict=True):
        _, other = edited(tmp_path / name, **changes, **fewer)
        assert not np.array_equal(other, picture), name
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"name": "one", **changes, **JOINT, "steps": 4}))
    out = tmp_path / "many"
    status, _, error = p2p("batch", path, "--model", flux_folder, "--out", out, "--json")
    assert status == 0, error
    assert np.abs(np.asarray(Image.open(out / "one" / "edited.png")) - picture).max() <= 1


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


def test_levels_are_the_same_everywhere(p2p, tmp_path, photo):
    uniform = ["--scheduler", "ddim_uniform"]
    about = ["--image", photo, "--caption", SOURCE, "--inversion", "direct", *FAST]
    status, out, _ = p2p("invert", *about, *uniform, "--out", tmp_path / "kept")
    assert status == 0
    edit = [
        "edit",
        *about,
        "--swap",
        "red=blue",
        "--inversion-file",
        json.loads(out)["inversion_file"],
    ]
    status, _, error = p2p(*edit, "--out", tmp_path / "a")
    assert status == 1
    assert "Expected the scheduler ddim_uniform" in error
    assert "got the scheduler normal" in error
    assert p2p(*edit, *uniform, "--out", tmp_path / "a")[0] == 0
    status, _, error = p2p(*edit, *uniform, "--steps", "12", "--out", tmp_path / "b")
    assert status == 1
    assert "Expected 4 steps" in error
    looked = []
    for more in ([], uniform):
        maps = ["maps", "--source", SOURCE, "--words", "circle", "--out", tmp_path / "c"]
        assert p2p(*maps, *FAST, *more)[0] == 0
        looked.append(np.asarray(Image.open(tmp_path / "c" / "source.png")))
    assert not np.array_equal(*looked)


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
        (["--reweight", "red=much"], "Expected reweight to be a valid number"),
        (["--reweight", "red=nan"], "Expected reweight to be a finite number"),
        (["--reweight", "red=-inf"], "Expected reweight to be a finite number"),
        (["--reweight", "red=1e40"], "Expected reweight to be less than"),
        (["--swap", "circle=star", "--cfg", "nan"], "cfg to be a finite number"),
        (["--swap", "circle=star", "--cfg", "inf"], "cfg to be a finite number"),
        (["--swap", "circle=star", "--cfg", "1e40"], "cfg to be less than"),
        (["--swap", "circle=star", "--seed", str(2**64)], "equal to 18446744073709551615"),
        (["--swap", "circle=star", "--blend-threshold", "abc"], "to be 'otsu' or a valid number"),
        (["--swap", "circle=star", "--blend-threshold", "2"], "to be 'otsu' or less than or"),
        (["--swap", "circle=star", "--size", "²x8"], "size to be a valid integer"),
        (["--swap", "circle=star", "--size", "8x16392"], "equal to 16384"),
        (["--swap", "circle=\udcff"], "Expected text in UTF-8"),
        (["--swap", "circle=star", "--negative", "\udcff"], "Expected text in UTF-8"),
        (["--swap", "circle=star", "--blend", "dog"], "'dog' is not in the prompt"),
        (["--swap", "circle=star", "--model", "/none"], "does not exist"),
        (["--swap", "circle=star", "--image", "/none.png"], "cannot be read"),
        (["--swap", "circle=star", "--size", "100x100"], "size to be a multiple of 8"),
        (["--swap", "circle=star", "--denoise", "0.7"], "Expected --image"),
        (["--swap", "circle=star", "--inversion-file", "/none"], "cannot be read"),
        (["--swap", "circle=star", "--preset", "best"], "preset to be one of colour or material,"),
        (
            ["--swap", "circle=star", "--preset", "style", "--self-replace-end", "0.1"],
            "Expected --preset or windows",
        ),
        (["--swap", "circle=star", "--attention", "best"], "one of automatic, shared structure,"),
        (["--swap", "circle=star", "--blocks", "best"], "Expected blocks such as all, first 2/3"),
        (["--swap", "circle=star", "--blocks", "7"], "Expected blocks that this model has"),
        (["--swap", "circle=star", "--attention", SHARED], "whose text has a softmax of its own"),
        (["--swap", "circle=star", "--prompt-vector", "x"], "prompt_vector to be 'source'"),
        (["--swap", "circle=star", "--guidance", "5"], "no --guidance for UNet2DConditionModel"),
        (["--swap", "circle=star", "--guidance", "nan"], "guidance to be a finite number"),
        (["--swap", "circle=star", "--sampler", "best"], "sampler to be one of"),
        (["--swap", "circle=star", "--scheduler", "best"], "scheduler to be one of"),
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
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_every_command_refuses_what_no_image_has(p2p, tmp_path, photo):
    """Of text and numbers, each by what reads them; nothing is begun."""
    path, out = tmp_path / "edits.jsonl", tmp_path / "out"
    maps = ["maps", "--source"]
    about = ["--image", photo, "--inversion", "direct"]
    shapes = ["benchmark", "shapes", "--cases", "1"]
    for command, said in (
        ([*maps, "a \udcff"], "text in UTF-8"),
        ([*maps, SOURCE, "--cfg", "nan"], "cfg to be"),
        (["invert", *about, "--source", "a \udcff"], "text in UTF-8"),
        (["invert", *about, "--source", SOURCE, "--cfg", "inf"], "cfg to be"),
        ([*shapes, "--cfg", "nan"], "cfg to be"),
        ([*shapes, "--seed", str(2**64)], "seed to be"),
    ):
        status, told, error = p2p(*command, "--out", out, *FAST)
        assert (status, told) == (1, "")
        assert said in error
        assert len(error.splitlines()) == 1
    for row, said in (
        ({"cfg": float("nan")}, "cfg to be"),
        ({"reweight": "red=inf"}, "reweight to be"),
        ({"seed": 2**64}, "seed to be"),
        ({"refine": "a \ud800 circle"}, "text in UTF-8"),
    ):
        path.write_text(json.dumps({"caption": SOURCE, "swap": "circle=star", **row}))
        status, told, error = p2p("batch", path, "--out", out, "--json")
        assert (status, told) == (1, "")
        assert f"edits.jsonl, line 1: Expected {said}" in error
    assert not out.exists()


def test_maps_of_a_prompt_without_words(p2p, tmp_path):
    status, told, error = p2p("maps", "--source", "", "--out", tmp_path / "out", "--steps", "2")
    assert (status, told) == (1, "")
    assert "Expected a prompt with words to look at, got ''" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--swap", "circle=star"], "--out"),
        (["--nonsense"], "got --nonsense"),
        (["--out", "OUT", "--swop", "circle=star"], "got --swop"),
        (["--out", "OUT", "--swap", "circle=star", "--swop", "circle=star"], "--swop"),
        (
            ["--out", "OUT", "--swap", "circle=star", "--steps", "many"],
            "steps to be a valid",
        ),
        (
            ["--out", "OUT", "--swap", "circle=star", "--steps", "2.7"],
            "steps to be a valid",
        ),
        (["--out", "OUT", "--swap", "circle=star", "--steps", "0"], "steps to be greater than"),
        (["--out", "OUT", "--swap", "circle=star", "--seed", "-1"], "seed to be greater than"),
        (["--out", "OUT", "--swap"], "--swap requires an argument"),
    ],
)
def test_wrong_usage(arguments, said, p2p, tmp_path):
    out = tmp_path / "out"
    arguments = [out if part == "OUT" else part for part in arguments]
    status, told, error = p2p("edit", "--source", SOURCE, *arguments)
    assert (status, told) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_wrong_usage_of_other_commands(p2p, tmp_path):
    sample = ["benchmark", "sample", "--out", tmp_path]
    for command, said in (
        (["nope"], '"nope"'),
        (["batch", "--out", tmp_path], "MANIFEST"),
        (["maps", "--source", SOURCE, "--out", tmp_path, "--denoise", "0.5"], "--denoise"),
        (
            ["invert", "--image", "a", "--source", "a", "--out", "b", "--sampler", "x"],
            "--sampler",
        ),
        ([*sample, "--cases", "0"], "Expected --cases to be greater than"),
        ([*sample, "--cases", "2.5"], "Expected --cases to be a valid integer"),
    ):
        status, told, error = p2p(*command)
        assert (status, told) == (2, "")
        assert said in error
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [[], ["benchmark"]])
def test_without_a_command_there_is_help(command, p2p):
    status, told, _ = p2p(*command)
    assert status == 2
    assert "Commands" in told


def test_an_option_that_is_given_again_counts_anew(p2p, tmp_path):
    edit = ["edit", "--source", SOURCE, "--swap", "circle=star", "--out", tmp_path, *FAST]
    more = ["--steps", "2", "--size", "64x64", "--size", "64x128", "--swap", "red=blue"]
    status, told, error = p2p(*edit, *more, "--json")
    assert status == 0, error
    report = json.loads(told)
    assert (report["steps"], report["size"]) == (2, "64x128")
    assert report["swap"] == ["circle=star", "red=blue"]
    with Image.open(tmp_path / "edited.png") as picture:
        assert picture.size == (64, 128)


def test_words_that_look_like_something_else_are_words(p2p, tmp_path):
    """Options, files of options, JSON and nothing at all to others; here words of a prompt."""
    source = "- @circle none"
    edits = ["--swap", "-=--half", "--swap", "@circle={}", "--refine", "none"]
    status, told, error = p2p("edit", "--source", source, *edits, "--out", tmp_path, *FAST)
    assert status == 0, error
    report = json.loads(told)
    assert (report["source"], report["refine"]) == (source, "none")
    assert report["swap"] == ["-=--half", "@circle={}"]
    assert report["half"] is False


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


def test_a_manifest_is_carried_out_and_its_wrong_rows_are_named(p2p, tmp_path, photo):
    path = tmp_path / "edits.csv"
    head = "name,image,caption,swap,steps,inversion\n"
    good = f"one,,{SOURCE},circle=star,4,\ntwo,{photo},{SOURCE},red=blue,4,direct\n"
    path.write_text(head + good + f"three,,{SOURCE},dog=cat,4,\n")
    out = tmp_path / "out"
    status, told, error = p2p("batch", path, "--out", out, "--json")
    assert status == 1
    assert "three (line 4): 'dog' is not in the prompt" in error
    report = json.loads(told)
    assert (report["done"], [one["name"] for one in report["failed"]]) == (2, ["three"])
    with Image.open(out / "two" / "edited.png") as picture:
        command = json.loads(picture.text["p2p"])["command"]
        made = np.asarray(picture).astype(int)
    status, _, _ = p2p(*shlex.split(command)[1:], "--out", tmp_path / "again", "--json")
    assert status == 0
    again = np.asarray(Image.open(tmp_path / "again" / "edited.png"))
    assert np.abs(made - again).max() <= 1
    path.write_text(head + good)
    status, told, _ = p2p("batch", path, "--out", out)
    assert status == 0
    assert told == "0 done, 2 done before, 0 failed, 0 retries\n"


def test_a_bad_manifest_begins_nothing(p2p, tmp_path):
    path = tmp_path / "edits.jsonl"
    path.write_text('{"caption": "a cat"}\n{"caption": "a cat", "swap": "cat"}\n')
    status, told, error = p2p("batch", path, "--out", tmp_path / "out", "--json")
    assert (status, told) == (1, "")
    assert "edits.jsonl, line 1: Expected an edit" in error
    assert "edits.jsonl, line 2: Expected a pair such as --swap" in error
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_interrupted_leaves_whole_cases_and_goes_on(tmp_path):
    path, out = tmp_path / "edits.jsonl", tmp_path / "out"
    rows = [{"caption": SOURCE, "swap": "circle=star", "seed": n, "steps": 10} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-I", "-m", "p2p_core.cli.app", "batch", path, "--out", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        begun = out / "log.jsonl"
        wait_until(lambda: begun.exists() or process.poll() is not None, "a case that is done")
        assert process.poll() is None
        first, *_ = begun.read_text().splitlines()
        os.kill(json.loads(first)["worker"], signal.SIGKILL)  # whose end leaves nothing to say
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == 130
    assert "Interrupted" in error
    assert "Traceback" not in error
    assert "resource_tracker" not in error
    before = {one.parent.name for one in out.glob("*/edited.png")}
    assert 0 < len(before) < 4
    assert {one.name for one in out.iterdir()} == before | {LOCK, "log.jsonl"}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert (report["done"], report["done_before"]) == (4 - len(before), len(before))


def test_a_full_disk(p2p, tmp_path, full_disk):
    """A file system of a few pages: pictures of a case fill it."""
    path = tmp_path / "edits.jsonl"
    rows = [{"caption": SOURCE, "swap": "circle=star", "seed": n, "steps": 1} for n in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    status, told, error = p2p("batch", path, "--out", full_disk / "out", "--json")
    assert (status, told) == (1, "")
    assert "No space left on device" in error
    assert len(error.splitlines()) == 1
    for picture in full_disk.rglob("*.png"):
        Image.open(picture).load()
    assert not list(full_disk.rglob("*.part"))
    for line in (full_disk / "out" / "log.jsonl").read_text().splitlines():
        assert json.loads(line)


def test_a_full_disk_under_an_inversion(p2p, full_disk, photo):
    """Its trajectory alone is larger: one line, and nothing half-written."""
    about = ["--image", photo, "--caption", SOURCE, "--inversion", "direct", "--steps", "40"]
    status, told, error = p2p("invert", *about, "--out", full_disk, "--json")
    assert (status, told) == (1, "")
    assert "No space left on device" in error
    assert len(error.splitlines()) == 1
    assert [one.name for one in full_disk.iterdir()] == ["reconstruction.png"]


def test_an_inversion_says_where_it_is(p2p, tmp_path, photo):
    about = ["--image", photo, "--caption", SOURCE, "--inversion", "null-text", "--steps", "2"]
    slow, fast = (["--out", tmp_path / name] for name in ("slow", "fast"))
    status, told, _ = p2p("invert", *about, *slow, "--learning-rate", "1e-6")
    assert status == 0
    kept = tmp_path / "slow" / "inversion.p2p.safetensors"
    assert f"inversion: {kept}" in told.splitlines()
    assert p2p("invert", *about, *fast)[0] == 0
    one, other = (
        Inversion.load(tmp_path / name / kept.name).found.null_embeddings
        for name in ("slow", "fast")
    )
    assert (one[0] - one[1]).abs().max() <= 1e-5 < (other[0] - other[1]).abs().max()
    status, _, error = p2p("invert", *about, *slow, "--learning-rate", "0")
    assert status == 1
    assert "Expected a positive learning rate" in error


def test_pie_bench(p2p, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert p2p("benchmark", "sample", "--out", tmp_path / "data", "--cases", 2)[0] == 0
    run = ["benchmark", "pie", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    status, told, error = p2p(*run, "--methods", "direct,infedit", *FAST)
    assert status == 0
    report = json.loads(told)
    assert report["cases"] == 2
    assert all(one["psnr_unedit_part"] > 20 for one in report["methods"].values())
    assert "lpips_unedit_part is left out: " in error
    status, told, _ = p2p(*run, "--methods", "direct", "--steps", "4")
    assert status == 0
    assert told.startswith("| method | kind | structure_distance × 1000 |")
    assert p2p(*run, "--methods", "best")[0] == 1
    assert p2p("benchmark", "pie", "--data", tmp_path, "--out", tmp_path / "x")[0] == 1
    assert not (tmp_path / "x").exists()


def test_half_precision(p2p, tmp_path):
    edit = ["edit", "--source", SOURCE, "--swap", "circle=star", *FAST]
    for name, more in (("whole", []), ("half", ["--half"])):
        status, told, _ = p2p(*edit, *more, "--out", tmp_path / name)
        assert status == 0
        assert json.loads(told)["half"] == bool(more)
    one, two = (
        np.asarray(Image.open(tmp_path / name / "edited.png")).astype(int)
        for name in ("whole", "half")
    )
    assert 0 < np.abs(one - two).mean() < 8


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
