"""Inversions in files: written whole, and refused by name of what is wrong with them."""

import json
import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from p2p_core.files import write_whole
from p2p_core.inversion.record import Inversion, Spacing, summary
from p2p_core.inversion.task import Found

LEVELS, IMAGES = 4, 2


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def inversion():
    latent = random(IMAGES, 4, 3, 5)
    found = Found(random(LEVELS, *latent.shape), random(LEVELS - 1, IMAGES, 7, 6))
    return Inversion(
        method="null-text",
        prompt="a cat",
        guidance=7.5,
        sigmas=torch.tensor([14.0, 5.0, 1.0, 0.0]),
        found=found,
        latent=latent,
        reconstruction=latent / 2,
        psnr=(30.0, 31.5),
        source=summary(random(1, 7, 6)),
        negative=summary(random(1, 7, 6) + 1),
        probe=random(9),
        spacing=Spacing(LEVELS - 1, "normal", 0.7),
    )


@pytest.fixture
def path(tmp_path, inversion):
    path = tmp_path / "one.p2p.safetensors"
    inversion.save(path)
    return path


def written(path, tensors=None, facts=None, text=None):
    """The file without a checksum, with other tensors or facts; None and ... take one away."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        own = {key: file.get_tensor(key) for key in file.keys()} | (tensors or {})  # noqa: SIM118
        said = json.loads(file.metadata()["facts"]) | (facts or {})
    said = json.dumps({key: value for key, value in said.items() if value is not ...})
    about = {"p2p_inversion": "1", "facts": said if text is None else text}
    save_file({key: value for key, value in own.items() if value is not None}, path, about)


def test_what_is_saved_is_loaded(path, inversion):
    again = Inversion.load(path)
    for name in ("method", "prompt", "guidance", "psnr", "proximal", "spacing"):
        assert getattr(again, name) == getattr(inversion, name)
    for name in ("sigmas", "latent", "reconstruction", "source", "negative", "probe"):
        assert torch.equal(getattr(again, name), getattr(inversion, name))
    assert torch.equal(again.found.trajectory, inversion.found.trajectory)
    assert torch.equal(again.found.null_embeddings, inversion.found.null_embeddings)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_of_the_first_release_is_loaded_with_a_warning(path, inversion, caplog):
    """It has no checksum, and does not tell what its levels were asked for by."""
    written(path, facts={"steps": ..., "scheduler": ..., "denoise": ...})
    again = Inversion.load(path)
    assert again.spacing is None
    assert again.psnr == inversion.psnr
    assert "one.p2p.safetensors has no checksum" in caplog.text


def test_any_flipped_bit_is_found(path):
    """Of the numbers, and of the facts; the header's own are safetensors' business."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    prompt = whole.index(b"a cat")
    for place in (*range(8 + length, len(whole), 97), prompt, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="the file is damaged"):
            Inversion.load(path)


NAN = torch.tensor(torch.nan)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"sigmas": torch.tensor(1.0)}, r"sigmas of shape \[\], which has not 1 axes"),
        ({"sigmas": torch.tensor([])}, r"sigmas of shape \[0\]"),
        ({"sigmas": torch.tensor([0.0])}, "noise levels that do not fall to 0"),
        ({"sigmas": torch.tensor([0.0, 1.0, 5.0, 14.0])}, "noise levels that do not fall to 0"),
        ({"sigmas": torch.tensor([5.0, 14.0, 1.0, 0.0])}, "noise levels that do not fall to 0"),
        ({"sigmas": torch.tensor([14.0, 5.0, 0.0])}, r"trajectory of shape .* begin with \[3, 2"),
        ({"nulls": torch.tensor(1.0)}, r"nulls of shape \[\], which has not 4 axes"),
        ({"nulls": NAN.expand(3, 2, 7, 6).clone()}, "nulls with numbers that are not finite"),
        ({"nulls": random(3, 1, 7, 6)}, r"nulls of shape .* does not begin with \[3, 2\]"),
        ({"source": NAN[None]}, "source with numbers that are not finite"),
        ({"negative": NAN[None]}, "negative with numbers that are not finite"),
        ({"probe": torch.zeros(9, dtype=torch.float8_e4m3fn)}, r"probe of torch\.float8_e4m3fn"),
        ({"latent": torch.zeros(2, 4, 3, 5, dtype=torch.int32)}, "latent of torch.int32"),
        ({"latent": random(2, 4, 3, 6)}, r"trajectory of shape .* \[4, 2, 4, 3, 6\]"),
        ({"reconstruction": random(1, 4, 3, 5)}, "reconstruction of shape"),
        ({"reconstruction": None}, "reconstruction missing"),
        ({"more": random(1)}, "more unknown"),
    ],
)
def test_numbers_that_are_none_of_an_inversion(tensors, said, path):
    written(path, tensors)
    with pytest.raises(ValueError, match=rf"got one\.p2p\.safetensors: {said}.* again\."):
        Inversion.load(path)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"prompt": None}, "prompt is not text but None"),
        ({"prompt": ...}, "prompt missing"),
        ({"method": 3}, "method is not text but 3"),
        ({"guidance": "7"}, "guidance is not a finite number but 7"),
        ({"guidance": float("nan")}, "guidance is not a finite number but nan"),
        ({"guidance": 10**400}, "guidance is not a finite number"),
        ({"guidance": True}, "guidance is not a finite number but True"),
        ({"psnr": 30.0}, "psnr is not a list"),
        ({"psnr": ["a", "b"]}, r"psnr is no number for each of 2 image\(s\)"),
        ({"psnr": [30.0]}, r"psnr is no number for each of 2 image\(s\)"),
        ({"put_back": "no"}, "put_back is not true or false but no"),
        ({"proximal": 2.0}, "proximal of 2, which is not within 0 and 1"),
        ({"steps": "many"}, "steps is not a whole number"),
        ({"more": 1}, "more unknown"),
    ],
)
def test_facts_that_are_none_of_an_inversion(facts, said, path):
    written(path, facts=facts)
    with pytest.raises(ValueError, match=rf"got one\.p2p\.safetensors: {said}"):
        Inversion.load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"a"', "3"])
def test_facts_that_are_no_object(text, path):
    written(path, text=text)
    with pytest.raises(ValueError, match="its facts"):
        Inversion.load(path)


def test_what_is_no_file_of_ours(path):
    data = path.read_bytes()
    for name, content in (("half", data[: len(data) // 2]), ("none", b""), ("text", b"x" * 100)):
        (path.parent / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            Inversion.load(path.parent / name)
    with pytest.raises(ValueError, match=r"cannot be read: there is none"):
        Inversion.load(path.parent / "missing")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"inversion of version 1, got one.* with none"):
        Inversion.load(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="cannot be read: it is no regular file"):
            Inversion.load(tmp_path / name)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_user_lets_read(mask, tmp_path, inversion):
    before = os.umask(mask)
    try:
        inversion.save(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_several_write_to_one_path_at_once(tmp_path):
    path = tmp_path / "a"
    texts = [letter * 100_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_whole, path, text) for text in texts * 20]:
            done.result()
            assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_the_disk_has_no_room_for(path, inversion):
    """What stood there stays, nothing half-written does, and the error is the disk's."""
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace(inversion, prompt="a dog").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("spacing", "said"),
    [
        (
            Spacing(3, "normal", 1.0),
            r"Expected a denoise of 0\.7, as .* got a denoise of 1\. Set d",
        ),
        (Spacing(3, "karras", 0.7), r"Expected the scheduler normal, .* got the scheduler karras"),
        (
            Spacing(9, "karras", 0.7),
            r"3 steps and the scheduler normal, .* Set steps and scheduler",
        ),
        (Spacing(3, "normal", 0.7), r"3 steps from 14 to 0, got 3 from 9 to 0.* sample all steps"),
        (None, r"by 3 steps, the scheduler normal, a denoise of 0\.7: 3 steps from 14 to 0, got 3"),
    ],
)
def test_levels_that_differ_are_named_by_what_differs(spacing, said, inversion):
    with pytest.raises(ValueError, match=said):
        inversion.check_schedule(torch.tensor([9.0, 5.0, 1.0, 0.0]), spacing)
    inversion.check_schedule(inversion.sigmas, spacing)
    with pytest.raises(ValueError, match="3 steps from 14 to 0, got 2 from 5 to 0"):
        replace(inversion, spacing=None).check_schedule(torch.tensor([5.0, 1.0, 0.0]), spacing)


def test_null_texts_of_another_text_encoder(inversion):
    texts = (random(1, 7, 6), random(1, 7, 6) + 1)
    inversion.check_texts("a cat", *texts)
    wide = replace(inversion, found=replace(inversion.found, null_embeddings=random(3, 2, 7, 8)))
    with pytest.raises(ValueError, match=r"null texts of \[7, 6\] .* got \[7, 8\]"):
        wide.check_texts("a cat", *texts)
