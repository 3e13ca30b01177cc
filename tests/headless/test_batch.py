"""Many edits by several workers: every row, every worker's death, everything done once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import wait_until

from p2p_core.jobs.edit import Edit
from p2p_core.jobs.engine import run
from p2p_core.jobs.files import read_parameters, write_pictures
from p2p_core.jobs.job import Job
from p2p_core.jobs.manifest import read_manifest
from p2p_core.jobs.workers import workers_of

SOURCE = "a red circle on the grass"


def jobs(out: Path, count: int, steps: int = 4, **more) -> list[Job]:
    swap = {"swap": ("circle=star",), **more}
    edits = [Edit(source=SOURCE, steps=steps, seed=seed, **swap) for seed in range(count)]
    return [
        Job(f"{n:02}", edit, out / f"{n:02}", place=f"case {n}") for n, edit in enumerate(edits)
    ]


def log(out: Path) -> list[dict]:
    path = out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def done(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("*/edited.png"))


def status(pid: int) -> list[int]:
    """As Linux has it from the fourth field on, the parent's number."""
    _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return [int(one) for one in fields.split()[1:]]


def parent(pid: int) -> int:
    return status(pid)[0]


def processor_seconds(pid: int) -> float:
    return sum(status(pid)[10:12]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at workers as Linux has it")
@pytest.mark.parametrize("cluster", [None, "local"])
def test_a_worker_that_is_killed_loses_nothing_and_nothing_is_done_twice(cluster, tmp_path):
    if cluster:
        pytest.importorskip("ray", reason="needs the ray extra: pip install .[ray]")
    todo = jobs(tmp_path, 5, steps=30)

    def kill() -> None:
        """The worker of the first case, once that is done and it is at another."""
        wait_until(lambda: done(tmp_path) and log(tmp_path), "a case that is done", every=0.01)
        pid = log(tmp_path)[0]["worker"]
        begun = processor_seconds(pid)
        wait_until(
            lambda: processor_seconds(pid) >= begun + 0.3, "its worker at another", every=0.01
        )
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    summary = run(todo, tmp_path, workers_of(2, cluster), quiet=True)
    thread.join()
    assert not summary.failed
    assert summary.retries == 1
    assert done(tmp_path) == [job.name for job in todo]
    attempts = log(tmp_path)
    succeeded = Counter(one["name"] for one in attempts if one["error"] is None)
    assert succeeded == Counter(job.name for job in todo)
    (lost,) = (one for one in attempts if one["error"] is not None)
    assert "worker died" in lost["error"]
    assert len({one["worker"] for one in attempts} - {0}) == 3
    assert not list(tmp_path.glob("*.part"))
    again = run(todo, tmp_path, workers_of(2, cluster), quiet=True)
    assert (len(again.done), len(again.before)) == (0, 5)
    assert len(log(tmp_path)) == len(attempts)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at workers as Linux has it")
def test_a_machine_that_is_lost_loses_nothing_and_nothing_is_done_twice(
    tmp_path, monkeypatch, capsys
):
    """Of a cluster of two, here two Ray nodes of this one; the other does the rest alone.

    Its worker is stopped while there are cases for both, so that it is lost with one, however fast
    they are. How many attempts it takes until the cluster knows is the cluster's affair.
    """
    monkeypatch.setattr("p2p_core.jobs.cluster.TIMEOUT", 0.0)
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the ray extra")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        machine = cluster.add_node(num_cpus=1)
        (raylet,) = (one.process.pid for one in machine.all_processes["raylet"])
        todo, ended, killed = jobs(tmp_path, 10, steps=20), threading.Event(), []

        def its_workers() -> set[int]:
            pids = {one["worker"] for one in log(tmp_path)} - {0}
            return {pid for pid in pids if parent(pid) == raylet}

        def lose() -> None:
            """The machine, once its worker has done a case and has another."""
            found = wait_until(
                lambda: ended.is_set() or its_workers(), "a case done by its worker", every=0.01
            )
            if not ended.is_set():
                pid = min(found)
                os.kill(pid, signal.SIGSTOP)
                cluster.remove_node(machine, allow_graceful=False)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        try:
            summary = run(todo, tmp_path, workers_of(2, cluster.address), quiet=True)
        finally:
            ended.set()
            thread.join()
    finally:
        cluster.shutdown()
    assert killed
    assert not summary.failed
    assert done(tmp_path) == [job.name for job in todo]
    attempts = log(tmp_path)
    succeeded = Counter(one["name"] for one in attempts if one["error"] is None)
    assert succeeded == Counter(job.name for job in todo)
    assert len({one["worker"] for one in attempts} - {0}) == 2
    lost = [one for one in attempts if one["error"] is not None]
    assert len(lost) == summary.retries > 0
    assert all("worker died" in one["error"] for one in lost)
    assert "Waiting for the cluster to start a worker." in capsys.readouterr().err


WRITING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from p2p_core.jobs.engine import run
from p2p_core.jobs.pool import Outcome
from p2p_core.jobs.manifest import read_manifest
from p2p_core.jobs.places import write_folder

save = Image.Image.save


def saved(*given, **named):
    save(*given, **named)
    print(flush=True)
    sys.stdin.readline()


class Workers(ThreadPoolExecutor):
    count = 1

    def submit(self, job):
        return super().submit(self.write, job)

    def write(self, job):
        pictures = dict.fromkeys(("source", "edited"), np.zeros((8, 8, 3), np.uint8))
        write_folder(job.folder, pictures, {"command": job.command})
        return Outcome(0.0, 0.0, 1)


manifest, out = map(Path, sys.argv[1:])
Image.Image.save = saved
jobs = read_manifest(manifest, out, "demo", False)
assert len(run(jobs, out, Workers(1), quiet=True).done) == 2
"""
"""A run whose worker tells of every picture and waits for a line before it goes on."""


def test_a_second_run_leaves_the_first_ones_folder_alone(p2p, tmp_path):
    manifest, out = tmp_path / "edits.csv", tmp_path / "out"
    manifest.write_text(f"name,caption,swap\na,{SOURCE},circle=star\nb,{SOURCE},red=blue\n")
    batch = ["batch", manifest, "--out", out]
    left = out / ".p2p-0.part"  # by a run that was killed
    write_pictures(left, {"edited": np.zeros((8, 8, 3), np.uint8)}, {})
    command = [sys.executable, "-I", "-c", WRITING, str(manifest), str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as first:
        for _ in range(3):  # one case is there, and a picture of the other
            assert first.stdout.readline()
            assert not left.exists()
            before = sorted(out.rglob("*"))
            exit_status, _, error = p2p(*batch)
            assert exit_status == 1
            assert "another is writing there. Wait until it has ended" in error
            assert sorted(out.rglob("*")) == before
            first.stdin.write("\n")
            first.stdin.flush()
        first.communicate("\n" * 9)
    assert first.returncode == 0
    assert p2p(*batch)[:2] == (0, "0 done, 2 done before, 0 failed, 0 retries\n")
    assert sorted(path.name for path in out.iterdir()) == [".p2p.lock", "a", "b", "log.jsonl"]


def test_workers_make_the_pictures_that_one_edit_makes(tmp_path):
    from p2p_core.jobs.studio import Studio

    (job,) = jobs(tmp_path, 1)
    run([job], tmp_path, workers_of(1, None), quiet=True)
    pictures, parameters = Studio.open("demo", quiet=True).edit(job.work)
    made = np.asarray(Image.open(job.folder / "edited.png")).astype(int)
    assert np.abs(made - pictures["edited"]).max() <= 1
    assert read_parameters(job.folder / "edited.png") == parameters


def test_an_edit_is_planned_once(demo, monkeypatch):
    """So that each of its prompts is read once, a local blend's words included."""
    from p2p_core.hosts.diffusers.pipeline import Model
    from p2p_core.jobs.studio import Studio

    read, texts = Model.read, []

    def telling(self, text):
        texts.append(text)
        return read(self, text)

    monkeypatch.setattr(Model, "read", telling)
    edit = Edit(source=SOURCE, swap="circle=star", blend=("circle", "star"), steps=1)
    pictures, _ = Studio(demo, "demo", False, True).edit(edit)
    assert sorted(texts) == [SOURCE, SOURCE.replace("circle", "star")]
    assert sorted(pictures) == ["edited", "mask", "source"]


def test_a_blend_of_words_that_are_not_there(demo):
    for words, said in (("dog", "'dog' is not"), ("dog=star", "'dog' is not"), ("=dog", "'dog'")):
        edit = Edit(source=SOURCE, swap="circle=star", blend=words)
        with pytest.raises(ValueError, match=said):
            edit.plan(demo.read)


def test_a_case_that_changed_is_done_again(tmp_path):
    run(jobs(tmp_path, 2), tmp_path, workers_of(1, None), quiet=True)
    changed = [*jobs(tmp_path, 1), jobs(tmp_path, 2, swap=("circle=heart",))[1]]
    summary = run(changed, tmp_path, workers_of(1, None), quiet=True)
    assert [job.name for job in summary.before] == ["00"]
    assert [job.name for job in summary.done] == ["01"]
    assert read_parameters(tmp_path / "01" / "edited.png")["edited"] == "a red heart on the grass"


def test_what_is_wrong_with_a_case_is_its_own_and_is_not_tried_again(tmp_path):
    wrong = Job("wrong", Edit(source=SOURCE, swap=("dog=cat",), steps=2), tmp_path / "wrong")
    summary = run([wrong, *jobs(tmp_path, 1, 2)], tmp_path, workers_of(1, None), quiet=True)
    assert [job.name for job in summary.done] == ["00"]
    ((job, error),) = summary.failed
    assert job.name == "wrong"
    assert "'dog' is not in the prompt" in error
    assert len(log(tmp_path)) == 2


def test_without_a_model_or_a_disk_everything_stops(tmp_path):
    (job,) = jobs(tmp_path, 1)
    lost = Job(job.name, job.work, job.folder, model="/none")
    with pytest.raises(OSError, match="does not exist"):
        run([lost], tmp_path, workers_of(1, None), quiet=True)
    (tmp_path / "file").write_text("")
    nowhere = Job("x", job.work, tmp_path / "file" / "x")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        run([nowhere, *jobs(tmp_path, 3)], tmp_path, workers_of(1, None), quiet=True)
    assert done(tmp_path) == []
    assert not multiprocessing.active_children()


def test_a_manifest(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.png")
    (tmp_path / "edits.csv").write_text(
        "name,image,caption,edits,seed,--swap,blend,\n"
        "star,,a red circle,,7,circle=star; red=blue,circle\n"
        ',photo.png,a red wall,"--reweight red=2 --refine ""a red, old wall""",,,\n'
    )
    (tmp_path / "edits.jsonl").write_text(
        json.dumps({"name": "star", "source": "a red circle", "seed": 7,
                    "swap": ["circle=star", "red=blue"], "blend": "circle"}) + "\n\n"
        + json.dumps({"name": "0003", "image": "photo.png", "caption": "a red wall",
                      "edits": {"reweight": ["red=2"], "refine": "a red, old wall"}})
    )  # fmt: skip
    one, two = (
        read_manifest(tmp_path / f"edits.{kind}", tmp_path, "demo", False)
        for kind in ("csv", "jsonl")
    )
    assert one[0].work == two[0].work
    assert one[0].work.swap == (("circle", "star"), ("red", "blue"))
    assert one[1].work == two[1].work
    assert one[1].work.image == tmp_path / "photo.png"
    assert [job.name for job in one] == ["star", "0003"]


def test_every_bad_row_is_named_with_its_line(tmp_path):
    path = tmp_path / "edits.jsonl"
    rows = [
        {"caption": "a cat", "swap": "cat=dog"},
        {"caption": "a cat"},
        {"caption": "a cat", "swap": "cat"},
        {"swap": "cat=dog"},
        {"caption": "a cat", "swap": "cat=dog", "seed": "many"},
        {"caption": "a cat", "swap": "cat=dog", "colour": "red"},
        {"caption": "a cat", "swap": "cat=dog", "image": "none.png"},
        {"caption": "a cat", "swap": "cat=dog", "name": "../up"},
        {"caption": "a cat", "swap": "cat=dog", "name": "0001"},
        {"caption": "a cat", "swap": "cat=dog", "size": "100x100"},
        {"caption": "a cat", "edits": "swap cat"},
        {"caption": "a cat", "swap": "cat=dog", "inversion": "best"},
        {"caption": "a cat", "swap": "cat=dog", "sampler": "best"},
        {"caption": "a cat", "swap": "cat=dog", "inversion_file": "none"},
        {"caption": "a cat", "edits": 5},
        {"caption": "a cat", "swap": "cat=dog", "name": "theirs"},
        {"caption": "a cat", "swap": "cat=dog", "name": "n" * 300},
        {"caption": "a cat", "swap": "cat=dog", "cfg": 10**400},
        {"caption": "a cat", "source": "a dog", "swap": "cat=dog"},
        {"caption": "a cat", "edits": "--swap cat=dog --caption dog"},
        {"caption": "a cat", "seed": 1, "edits": {"swap": "cat=dog", "--seed": 2}},
        {"caption": "a cat", "edits": "--swap cat=dog --seed 1 --seed 2"},
        {"caption": "a cat", "edits": "--swap 'cat=dog"},
        {"caption": "a cat", "swap": "cat=\ud83d"},
        {"caption": "a cat", "swap": "cat=dog", "name": "NUL"},
        {"caption": "a cat", "swap": "cat=dog", "name": "C:x"},
        {"caption": "a cat", "swap": "cat=dog", "name": "Rex"},
        {"caption": "a cat", "swap": "cat=dog", "name": "rex"},
        {"caption": "a cat", "swap": "cat=dog", "name": "caf\u00e9"},
        {"caption": "a cat", "swap": "cat=dog", "name": "cafe\u0301"},
        {"caption": "a cat", "swap": "cat=dog", "name": "mixed"},
        {"caption": "a cat", "swap": "cat=dog", "name": "link"},
        {"caption": "a cat", "swap": "cat=dog", "name": "dangling"},
    ]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "holiday.jpg").write_text("")
    picture = {"edited": np.zeros((8, 8, 3), np.uint8)}
    for name in ("mixed", "elsewhere"):
        write_pictures(tmp_path / name, picture, {"command": "p2p edit"})
    (tmp_path / "mixed" / "holiday.jpg").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines, "{", "[]", "[" * 100_000, '{"seed": 1, "seed": 2}']))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="34 bad rows") as raised:
        read_manifest(path, tmp_path, "demo", False)
    assert sorted(tmp_path.rglob("*")) == before
    said = str(raised.value).splitlines()
    good = {1, 27, 29}
    wrong = [n for n in range(1, len(rows) + 5) if n not in good]
    assert [line.split(":")[0].rpartition("line ")[2] for line in said[:-1]] == [*map(str, wrong)]
    for line, part in zip(
        said,
        ("Expected an edit", "a pair such as", "Expected a caption",
         "a valid integer, unable to parse string as an integer, got 'many'",
         "got colour", "none.png, which cannot be read", "a name for a folder", "line 1 has",
         "a multiple of 8", "Expected edits such as", "Expected one of null-text",
         "sampler to be one of",
         "an inversion's file", "text or an object",
         "holds something else: 'holiday.jpg'", "a name for a folder", "a valid number",
         "Expected source or caption once", "got source in edits and in a column",
         "got seed in edits and in a column", "Expected seed once in edits",
         "Expected edits such as", "Expected text in UTF-8",
         "a name for a folder", "a name for a folder",
         "line 27 has already, as 'Rex', the same on some systems",
         "line 29 has already, as 'caf\u00e9', the same on some systems",
         "holds something else: 'holiday.jpg'", "is a link", "is a link",
         "a JSON object", "a JSON object, got []", "nested too deep", "'seed' twice"),
        strict=False,
    ):  # fmt: skip
        assert part in line


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.csv", None, "cannot be read"),
        ("edits.txt", "caption,swap", r"ends in \.csv or \.jsonl"),
        ("edits.csv", "caption,swap\n", "has none"),
        ("edits.csv", "caption,swap,swap\na cat,cat=dog,a=one\n", "different names"),
        ("edits.csv", "caption,swap\na cat,cat=dog,more\n", "line 2: Expected no more cells"),
        ("edits.csv", 'caption,swap\n"a cat,cat=dog\n', "comma-separated"),
        ("edits.csv", b"\xff\xfe\x00", "cannot be read"),
        ("edits.csv", "caption,--swap,swap\na cat,cat=dog,a=one\n", "Expected swap once"),
    ],
)
def test_a_manifest_that_is_none(name, text, said, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        read_manifest(tmp_path / name, tmp_path, "demo", False)


def test_a_cluster_that_is_not_there(tmp_path):
    pytest.importorskip("ray", reason="needs the ray extra: pip install .[ray]")
    with pytest.raises(ValueError, match="Expected a Ray cluster at"):
        run(jobs(tmp_path, 1), tmp_path, workers_of(1, "127.0.0.1:1"), quiet=True)


def test_a_command_says_all_that_an_edit_is(monkeypatch, tmp_path):
    """Given to the shell, it asks for the same edit."""
    from p2p_core.cli import main
    from p2p_core.jobs.studio import Studio

    edit = Edit(
        source="it's a cat",
        swap=("cat=big dog", "a=one"),
        refine="one big dog",
        inject_swapped=False,
        reweight=("big=-1.5",),
        blend=("cat", "dog"),
        blend_threshold="otsu",
        blend_smoothing=1.5,
        image="a photo.png",
        inversion="negative-prompt",
        inversion_file="kept.safetensors",
        steps=7,
        cfg=2.5,
        seed=3,
        sampler="ddim",
        scheduler="ddim_uniform",
        negative="blur",
        denoise=0.5,
        size="64x128",
        inner_steps=2,
        learning_rate=0.01,
        authors_schedule=True,
        cross_replace_end=0.1,
        self_replace_end=0.2,
        self_replace_reach=0.5,
        attention="aligned words",
        blocks="first 1/2",
        prompt_vector="edit",
        factors_act="before the softmax",
        guidance=3.5,
    )
    default = Edit(source="a", swap=("a=b",))
    edits = (edit, replace(default, preset="style"))  # which has no windows of its own
    changed = {
        field.name
        for field in fields(Edit)
        if any(getattr(one, field.name) != getattr(default, field.name) for one in edits)
    }
    assert changed == {field.name for field in fields(Edit)}
    asked = []

    def take(self, wanted):
        asked.append((wanted, self.name, self.half))
        raise ValueError

    monkeypatch.setattr(Studio, "edit", take)
    for one in edits:
        command = shlex.split(one.command("demo", half=True))
        monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path)])
        assert main() == 1
    assert asked == [(one, "demo", True) for one in edits]
