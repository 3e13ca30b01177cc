"""Models from disk: the same as were kept, and refused where anything of them is missing."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.utils import is_accelerate_available
from safetensors.torch import load_file, save_file

from p2p_core.demo.architecture import WEIGHTS
from p2p_core.hosts.diffusers.loading import load_pipeline
from p2p_core.hosts.diffusers.pipeline import Model

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def kept(demo, tmp_path_factory):
    """The demo model in diffusers' layout."""
    folder = tmp_path_factory.mktemp("kept")
    demo.pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def changed():
    """Writes a file of weights with others in their place; they come back when the test is over."""
    before = {}

    def write(path, weights):
        before.setdefault(path, path.read_bytes())
        save_file(weights, path, metadata={"format": "pt"})

    yield write
    for path, content in before.items():
        path.write_bytes(content)


def same(one, two):
    return all(
        torch.equal(value.float(), getattr(two, part).state_dict()[name].float())
        for part in FILES
        for name, value in getattr(one, part).state_dict().items()
    )


def test_a_folder_is_loaded_as_it_was_kept(model, tmp_path):
    model.pipeline.save_pretrained(tmp_path)
    again = Model.load(tmp_path)
    assert same(model.pipeline, again.pipeline)
    half = Model.load(tmp_path, torch.bfloat16).pipeline
    assert {getattr(half, part).dtype for part in FILES} == {torch.bfloat16}


@pytest.mark.parametrize("part", FILES)
def test_a_folder_that_lacks_weights_is_refused(part, kept, changed):
    path = kept / FILES[part]
    weights = load_file(path)
    gone = sorted(weights)[5:10]
    changed(path, {name: weights[name] for name in weights if name not in gone})
    with pytest.raises(ValueError, match=rf"weights of the {part} in .* and 2 more\. ") as raised:
        Model.load(kept)
    assert str(raised.value).count("got") == 1


def test_a_network_kept_under_other_names_is_refused(kept, changed):
    """As another version of a library has them."""
    path = kept / FILES["text_encoder"]
    changed(path, {f"other.{name}": value for name, value in load_file(path).items()})
    with pytest.raises(ValueError, match="weights of the text_encoder"):
        Model.load(kept)


def test_a_checkpoint_file_that_lacks_weights_is_refused(demo, kept, tmp_path):
    about = {"dtype": torch.float32, "config": str(kept)}  # else it is looked for on the network
    assert same(demo.pipeline, load_pipeline(WEIGHTS, **about))
    weights = load_file(WEIGHTS)
    for part, prefix in (
        ("unet", "model.diffusion_model."),
        ("text_encoder", "cond_stage_model."),
    ):
        gone = next(name for name in weights if name.startswith(prefix) and name.endswith("bias"))
        path = tmp_path / f"{part}.safetensors"
        save_file({name: weights[name] for name in weights if name != gone}, path)
        said = rf"weights of the {part} in .* got none for \S+bias"
        if is_accelerate_available():  # with which diffusers itself stumbles over them
            said += "|no data"
        with pytest.raises(ValueError, match=said):
            load_pipeline(path, **about)


@pytest.mark.parametrize("where", ["_class_name", "unet"])
def test_a_folder_s_own_code_is_not_run(where, kept, tmp_path):
    index = json.loads((kept / "model_index.json").read_text())
    index[where] = ["evil", "Evil"]
    for folder in (tmp_path, tmp_path / "unet"):
        folder.mkdir(exist_ok=True)
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for path in kept.iterdir():
        if path.is_dir() and path.name != "unet":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="cannot load"):
        Model.load(tmp_path)
    assert not (tmp_path / "ran").exists()
