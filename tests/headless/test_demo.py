"""`make demo` where there is no ComfyUI."""

import json
import sys

import numpy as np
from scipy.ndimage import binary_dilation

from p2p_core.demo.recognise import recognise
from p2p_core.demo.scenes import Item, Scene, render
from p2p_core.hosts.launch.locate import HostNotFound
from p2p_core.lab.showcase import blends, exhibits, windows
from p2p_core.lab.showcase import run as showcase
from p2p_core.lab.showcase.headless import HeadlessStudio
from p2p_core.lab.showcase.studio import Request
from p2p_core.presets import PRESETS

SWAP = ("P2P_WordSwap", {"words": "circle", "replacement": "star", "self_replace_end": 0.2})
BLEND = ("P2P_LocalBlend", {"source_words": "circle", "edited_words": "star"})


def test_the_pictures_of_a_prompt():
    text = "a red circle on the grass"
    edited, studio = text.replace("circle", "star"), HeadlessStudio()
    shot = studio.shoot(Request(text, [[SWAP], [SWAP, BLEND]], 2, 0, edited, maps="circle"))
    assert {name: len(some) for name, some in shot.items()} == {
        "source": 2,
        "p2p": 4,
        "reprompt": 2,
        "maps": 2,
    }
    alone = studio.shoot(Request(edited, [], 2, 0))["source"]
    assert np.array_equal(shot["reprompt"], alone), "the edited prompt by itself, uncontrolled"
    assert recognise(shot["source"][0]).items[0].shape == "circle"
    assert recognise(shot["p2p"][0]).items[0].shape == "star"
    outside = [
        np.abs(shot["source"][0].astype(int) - one) for one in (shot["p2p"][2], shot["p2p"][0])
    ]
    assert outside[0].mean() < outside[1].mean()


def test_presets_that_are_measured_are_cells_of_the_table():
    """Of how to take something out, the one that leaves the most freedom."""
    measured = {n: p for n, p in PRESETS.items() if "`make demo`" in p.origin}
    ends = {name: (preset.cross_end, preset.self_end) for name, preset in measured.items()}
    assert ends == {
        "colour or material": (1.0, 0.8),
        "another shape": (0.5, 0.2),
        "add": (0.5, 0.2),
        "remove": (0.5, 0.2),
    }
    assert set(ends.values()) <= set(windows.ENDS)
    kinds = {kind for kind in windows.KINDS for p in measured.values() if kind in p.origin}
    assert kinds == set(windows.KINDS)


def test_blends_are_measured_beside_each_other(monkeypatch):
    monkeypatch.setattr(blends, "PAIRS", {"colour_swap": exhibits.PAIRS["colour_swap"][:1]})
    (exhibit,) = blends.blends(HeadlessStudio(), 1, 0)
    table = {name: row["colour_swap"] for name, row in exhibit.figures["blends"].items()}
    assert list(table) == [blends.WITHOUT, "changed words", *blends.BLENDS]
    plain = table.pop(blends.WITHOUT)
    assert "iou" not in plain
    for row in table.values():
        assert row["background_psnr"] == row["worst_psnr"] != plain["background_psnr"]
        assert 0 < row["coverage"] < 0.5
        assert 0 < row["objects"] < 0.5
    assert table["Otsu"]["iou"] > table["changed words"]["iou"]


def test_a_mask_fits_what_may_change():
    """Half of a cell is a cell; where nothing is, nothing is covered."""
    circle = Item("circle", "red", "plain", 64.0, 50.0, 24.0)
    source, empty = (render(Scene(some, "sand", (80.0, 0.2), ())) for some in ((circle,), ()))
    cells = np.zeros((128, 128), bool)
    for item in recognise(source).items:
        cells |= binary_dilation(item.mask, iterations=exhibits.MARGIN)
    cells = cells.reshape(16, 8, 16, 8).mean((1, 3)) >= 0.5
    white = np.full((16, 16, 3), 255, np.uint8)
    fit = exhibits.Fit.of(source, empty, white * cells[..., None])
    assert fit == exhibits.Fit(cells.mean(), cells.mean(), 1.0)
    whole = exhibits.Fit.of(empty, source, white)
    assert whole == exhibits.Fit(1.0, cells.mean(), cells.mean())


def test_a_refinement_is_measured_beside_re_prompting(monkeypatch):
    monkeypatch.setattr(exhibits, "ADDED", exhibits.ADDED[:1])
    (exhibit,) = exhibits.refinements(HeadlessStudio(), 2, 3)
    figures = exhibit.figures["refine"]
    for name in ("reprompt", "p2p"):
        assert set(figures[name]) == {"background_psnr", "edit_success"}
        assert np.isfinite(figures[name]["background_psnr"])
    assert figures["edit_success"] == figures["p2p"]["edit_success"]
    assert figures["p2p"]["background_psnr"] > figures["reprompt"]["background_psnr"]


def test_diffusers_takes_the_place_of_comfyui_and_says_so(monkeypatch, tmp_path, capsys):
    def none(**named):
        raise HostNotFound("No ComfyUI here. Set COMFYUI_PATH.")

    monkeypatch.setattr(showcase, "find_hosts", none)
    monkeypatch.setattr(showcase, "showcase", lambda studios, out, plan: {})
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path)])
    assert showcase.main() == 0
    assert json.loads((tmp_path / "report.json").read_text())["host"] == "diffusers"
    assert "No ComfyUI here. Set COMFYUI_PATH.\nUsing diffusers instead" in capsys.readouterr().out
    monkeypatch.setattr(showcase, "find_spec", lambda name: None)
    assert showcase.main() == 1
