"""PIE-Bench: its layout, its measures with their networks on random weights, and a small run."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from p2p_core.edits import Refine, Reweight
from p2p_core.hosts.diffusers.demo import clip_tokenizer
from p2p_core.jobs.workers import workers_of
from p2p_core.lab.pie.cases import KINDS, Case, read_cases
from p2p_core.lab.pie.compared import InfEdit
from p2p_core.lab.pie.published import (
    CLIP_KIND,
    COLUMNS,
    DEVIATION,
    DINO,
    MEAN,
    Measures,
    through_jpeg,
)
from p2p_core.lab.pie.run import Plan, run_pie
from p2p_core.lab.pie.sample import TYPES, write_sample
from p2p_core.lab.shapes.cases import cases
from p2p_core.local_blend import LocalBlend
from p2p_core.tokens import read_prompt

COUNT = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pie")
    write_sample(folder, COUNT, 0)
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network is asked for weights, and none are kept."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Where each network of the published table lies, with random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    kept = folder / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    kept.parent.mkdir(parents=True)
    torch.save(squeezenet1_1(weights=None).state_dict(), kept)
    torch.save(timm.create_model(DINO, num_classes=0).state_dict(), folder / "dino.pth")
    return folder


@pytest.fixture
def measures(networks, monkeypatch, offline):
    monkeypatch.setenv("TORCH_HOME", str(networks))
    return Measures.load(str(networks / "dino.pth"))


@pytest.fixture
def read():
    """The words of a prompt and their tokens."""
    tokenizer = clip_tokenizer()

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return lambda text: read_prompt(text, ids(text), range(1, 1 + len(ids(text))), 77, ids)


def test_the_sample_is_read_as_it_was_rendered(data):
    read = read_cases(data)
    assert len(read) == COUNT
    for case, scene in zip(read, cases(COUNT, 0), strict=True):
        assert (case.prompt, case.edited_prompt) == (scene.prompt, scene.edited_prompt)
        assert case.blend == scene.words
        assert case.kind == KINDS[TYPES[scene.kind][0]]
        region = ~scene.kept
        region[[0, -1]] = region[:, [0, -1]] = True
        assert np.array_equal(case.region(128, 128), region)


def test_an_edit_is_as_published(data, read):
    case = read_cases(data)[0]
    edit = case.edit("direct", steps=50, cfg=7.5)
    (branch,) = edit.plan(read).branches
    refine, reweight, blend = branch.chain
    assert isinstance(refine, Refine)
    assert (refine.prompt, refine.inject_swapped) == (case.edited_prompt, False)
    assert (refine.schedule.window.end, refine.self_injection.window.end) == (0.4, 0.6)
    assert refine.self_injection.reach is None  # of up to 32×32 cells
    assert isinstance(reweight, Reweight)
    assert reweight.weights == ((case.blend[1], 2.0),)
    assert isinstance(blend, LocalBlend)
    assert (blend.source_words, blend.edited_words) == ((case.blend[0],), (case.blend[1],))
    assert edit.scheduler == "ddim_uniform"
    other = case.edit("infedit", steps=50, cfg=7.5)
    assert isinstance(other, InfEdit)
    assert (other.steps, other.cfg) == (12, 2.3)
    assert (other.cross_replace_end, other.self_replace_end) == (0.7, 0.7)
    assert other.words == (f"{case.blend[1]} #1",)


@pytest.mark.parametrize(
    ("prompts", "words", "blend", "reweight"),
    [
        (("a cat", "a cat with a hat"), ("cat", "hat"), ("cat=hat",), (("hat", 2.0),)),
        (("a cat", "a dog"), ("cats", "dog"), ("=dog",), (("dog", 2.0),)),
        (("a cat", "a dog"), ("cat", "dogs"), ("cat=",), ()),
        (("a cat", "a dog"), ("cats", "dogs"), (), ()),
        (("a cat", "a dog"), None, (), ()),
    ],
)
def test_blended_words_count_in_their_own_prompt(prompts, words, blend, reweight, read, tmp_path):
    edit = Case("1", tmp_path, *prompts, "random", words, ()).edit("ddim")
    assert (edit.blend, edit.reweight) == (blend, reweight)
    (branch,) = edit.plan(read).branches
    masks = [one for one in branch.chain if isinstance(one, LocalBlend)]
    assert [(one.source_words, one.edited_words) for one in masks] == [
        tuple((word,) if word else () for word in pair.split("=")) for pair in blend
    ]


def test_a_region_counts_runs_over_rows_and_the_border(tmp_path):
    case = Case("1", tmp_path, "", "", "random", None, (6, 4, 17, 100))
    region = case.region(4, 5)
    inside = np.array([[True, True, True], [False, False, False]])
    assert np.array_equal(region[1:3, 1:4], inside)
    assert region[0].all()
    assert region[:, -1].all()
    with pytest.raises(ValueError, match="starts at 17"):
        case.region(4, 4)


def test_edited_pictures_are_measured_as_jpeg(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    picture.save(tmp_path / "kept.jpg")
    kept = np.array(Image.open(tmp_path / "kept.jpg"))
    assert np.array_equal(through_jpeg(picture), kept)
    assert not np.array_equal(kept, picture)


def test_background_measures_count_the_black_region_too():
    picture = np.full((16, 16, 3), 200, np.uint8)
    edited = picture.copy()
    edited[:, :8] = 30
    edited[0, 15] = 149  # a difference of 0.2 in one pixel of the background
    region = np.zeros((16, 16), bool)
    region[:, :8] = True
    found = Measures().take(picture, edited, region, "", "")
    mse = 0.2**2 / 256
    assert found["mse_unedit_part"] == pytest.approx(mse)
    assert found["psnr_unedit_part"] == pytest.approx(-10 * np.log10(mse))
    assert 0.9 < found["ssim_unedit_part"] < 1
    assert Measures().take(picture, edited, np.ones((16, 16), bool), "", "") == {}


def test_lpips_and_structure_distance(measures):
    assert "lpips_unedit_part" in measures.names
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    region = np.zeros((64, 64), bool)
    same, other = measures.take(a, a, region, "", ""), measures.take(a, b, region, "", "")
    assert same["lpips_unedit_part"] == pytest.approx(0, abs=1e-6)
    assert other["lpips_unedit_part"] > 0.01
    assert same["structure_distance"] == pytest.approx(0, abs=1e-9)
    dino = measures.dino

    def alike(picture):
        """Layer 11's keys from what goes into it, by hand."""
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        pixels = torch.nn.functional.interpolate(pixels, 224, mode="bilinear")
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
        block, before = dino.blocks[11], []
        hook = block.register_forward_pre_hook(lambda module, given: before.append(given[0][0]))
        dino(pixels)
        hook.remove()
        weight, bias = block.attn.qkv.weight[768:1536], block.attn.qkv.bias[768:1536]
        keys = block.norm1(before[0]) @ weight.T + bias
        norms = keys.norm(dim=1, keepdim=True)
        return (keys @ keys.T) / (norms @ norms.T)

    with torch.no_grad():
        wanted = float((alike(a) - alike(b)).square().mean())
    assert other["structure_distance"] == pytest.approx(wanted, rel=1e-3)


def test_clip_similarity(networks, offline):
    torch.manual_seed(1)
    model, _, prepare = open_clip.create_model_and_transforms(CLIP_KIND, pretrained=None)
    measures = Measures(clip=(model.eval(), prepare, open_clip.get_tokenizer(CLIP_KIND)))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    region = np.zeros((32, 32), bool)
    region[:16] = True
    found = measures.take(a, b, region, "a cat", "a dog")
    model, prepare, tokenize = measures.clip
    shown = b.copy()
    shown[16:] = 0
    for name, picture, text in (
        ("source_image", a, "a cat"),
        ("target_image", b, "a dog"),
        ("target_image_edit_part", shown, "a dog"),
    ):
        with torch.no_grad():
            one, two, _ = model(prepare(Image.fromarray(picture))[None], tokenize([text]))
        wanted = max(0.0, 100 * float((one * two).sum()))
        assert found[f"clip_similarity_{name}"] == pytest.approx(wanted, abs=1e-4)


def test_what_cannot_be_had_is_left_out_and_said(offline):
    measures = Measures.load()
    assert measures.names == {"psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part"}
    assert set(measures.left_out) == set(COLUMNS) - measures.names
    assert all(measures.left_out.values())


def test_a_run_goes_on_where_it_was_stopped(data, measures, tmp_path, monkeypatch):
    plan = Plan(data, tmp_path, ["direct", "ddim"], steps=4, limit=3)
    plain = Measures(left_out={name: "not here" for name in COLUMNS if "clip" in name})
    plain.left_out |= {"lpips_unedit_part": "", "structure_distance": ""}
    take, taken = Measures.take, []

    def stopping(self, *args):
        if len(taken) == 4:
            raise KeyboardInterrupt
        taken.append(args)
        return take(self, *args)

    monkeypatch.setattr(Measures, "take", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_pie(plan, workers_of(1, None), plain, quiet=True)
    monkeypatch.setattr(Measures, "take", take)
    report, summary = run_pie(plan, workers_of(1, None), plain, quiet=True)
    assert (len(summary.done), len(summary.before)) == (0, 6)
    assert report["cases"] == 3
    assert {name: one["cases"] for name, one in report["methods"].items()} == {
        "direct": 3,
        "ddim": 3,
    }
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 6
    direct = report["methods"]["direct"]
    assert direct["reconstruction_psnr"] > report["methods"]["ddim"]["reconstruction_psnr"]
    assert "lpips_unedit_part" not in direct
    # a network that was missing has come
    measures.clip, measures.left_out = None, {name: "no" for name in COLUMNS if "clip" in name}
    again, _ = run_pie(plan, workers_of(1, None), measures, quiet=True)
    assert again["cases"] == 3
    assert again["methods"]["direct"]["lpips_unedit_part"] > 0
    assert again["methods"]["direct"]["cases"] == 3
    assert again["methods"]["direct"]["psnr_unedit_part"] == direct["psnr_unedit_part"]
    assert json.loads((tmp_path / "report.json").read_text()) == again
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"all", "change object", "change colour",
                                            "change material"}  # fmt: skip
    assert "structure_distance × 1000" in (tmp_path / "report.md").read_text()
    with pytest.raises(ValueError, match="Expected the plan"):
        run_pie(Plan(data, tmp_path, ["direct"], steps=5), workers_of(1, None), plain)


def test_wrong_data(data, tmp_path, offline):
    with pytest.raises(ValueError, match="Expected PIE-Bench in"):
        read_cases(tmp_path)
    with pytest.raises(ValueError, match=r"Expected methods out of ddim.*got best"):
        Plan(data, tmp_path, ["best"])
    mapping = json.loads((data / "mapping_file.json").read_text())
    keys = list(mapping)
    mapping[keys[0]]["editing_type_id"] = "10"
    mapping[keys[1]]["image_path"] = "none.jpg"
    mapping[keys[2]]["mask"] = [128 * 128, 1]
    mapping[keys[4]]["mask"] = [float("inf"), 1]
    mapping[keys[5]]["mask"] = [0]
    mapping["case"] = mapping["Case"] = mapping[keys[6]]
    bad = ["", ".", "..", "../../victim", "a/b", "x.part", "CON", "\ud83d"]
    mapping |= dict.fromkeys(bad, mapping[keys[6]])
    del mapping[keys[3]]["blended_word"]
    (tmp_path / "mapping_file.json").write_text(json.dumps(mapping))
    (tmp_path / "annotation_images").symlink_to(data / "annotation_images")
    with pytest.raises(ValueError, match="editing_type_id") as raised:
        read_cases(tmp_path)
    said = str(raised.value).splitlines()
    wrong = [*keys[:6], "Case", *bad]
    assert all(f", {key!r}: " in line for key, line in zip(wrong, said, strict=True))
    assert all("name for a folder on every system" in line for line in said[7:])
    (tmp_path / "mapping_file.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_cases(tmp_path)
    with pytest.raises(ValueError, match="each once"):
        Plan(data, tmp_path, ["direct", "direct"])
    for dino, said in ((str(tmp_path / "none.pth"), "Expected a model of timm"),
                       (str(tmp_path / "mapping_file.json"), "cannot be loaded")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Measures.load(dino)
    with pytest.raises(ValueError, match="or one of openai"):
        Measures.load(clip="none", dino=DINO)


def test_nothing_of_others_is_touched(data, tmp_path):
    """By a data set's keys, or in the places of its cases: before anything is begun."""
    mapping = json.loads((data / "mapping_file.json").read_text())
    first, second, *_ = mapping
    evil, out, victim = (tmp_path / name for name in ("evil", "out", "victim"))
    places = [out / "direct" / first, out / "ddim" / second]
    for folder in (evil, victim, *places):
        folder.mkdir(parents=True)
    for folder in (victim, *places):
        (folder / "precious.txt").write_text("")
    (evil / "annotation_images").symlink_to(data / "annotation_images")
    (evil / "mapping_file.json").write_text(json.dumps({"../../victim": mapping[first]}))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "direct").symlink_to(victim)
    before = sorted(tmp_path.rglob("*"))

    def refused(data, out, methods, said):
        with pytest.raises(ValueError, match=said) as raised:
            run_pie(Plan(data, out, methods, steps=1), workers_of(1, None), Measures(), quiet=True)
        assert sorted(tmp_path.rglob("*")) == before
        return str(raised.value)

    refused(evil, tmp_path / "new", ["direct"], "victim': Expected a name for a folder")
    refused(data, tmp_path / "linked", ["direct"], "got a link")
    said = refused(data, out, ["direct", "ddim"], "2 bad cases; nothing was begun")
    for place in places:
        assert f"{place}, which holds something else: 'precious.txt'" in said


def test_a_picture_that_was_made_anew_is_measured_anew(data, tmp_path):
    plan = Plan(data, tmp_path, ["direct"], steps=2, limit=1)
    networks = ("clip", "lpips", "structure")
    plain = Measures(left_out={name: "" for name in COLUMNS if name.startswith(networks)})
    first, _ = run_pie(plan, workers_of(1, None), plain, quiet=True)
    case = read_cases(data)[0]
    edited = Image.open(tmp_path / "direct" / case.key / "edited.png").convert("RGB")
    wanted, other = (
        plain.take(np.array(Image.open(case.image)), np.array(one), case.region(128, 128), "", "")
        for one in (through_jpeg(edited), edited)
    )
    measured = {name: first["methods"]["direct"][name] for name in wanted}
    assert measured == pytest.approx(wanted)
    assert measured != pytest.approx(other)
    shutil.rmtree(tmp_path / "direct")
    _, summary = run_pie(plan, workers_of(1, None), plain, quiet=True)
    assert len(summary.done) == 1
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    again, summary = run_pie(plan, workers_of(1, None), plain, quiet=True)
    assert len(summary.before) == 1
    assert again["methods"] == first["methods"]
    assert again["kinds"][0]["kind"] == "all"
