"""Run a ComfyUI with this pack as a server of its own, and queue prompts on it.

    with Server(find_hosts()[0]) as server:
        image, *_ = server.images(server.queue(prompt))

    python -m p2p_core.hosts.launch.server       # serve on http://127.0.0.1:8188 until Ctrl-C

Nothing is written into the host's folder: models, inputs, outputs, settings, the database and
byte code all lie under folders of the server.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .frontend import frontend_path
from .locate import ROOT, Host, HostNotFound, cache_folder, find_hosts

PACK_NAME = "prompt-to-prompt"
NOT_IN_A_COPY = (".*", "__pycache__", "output", "tests", "build", "*.egg-info")
POLL_SECONDS = 0.1


class PromptFailed(RuntimeError):
    """The host refused a prompt or a node failed; the message says which node and why."""


class ServerFailed(RuntimeError):
    """The server did not come up, or died; the message ends with the tail of its log."""


class Server:
    """A ComfyUI process on 127.0.0.1, from `__enter__` to `__exit__`.

    `base` is its folder of models, inputs, outputs and settings, a temporary one if it is None; the
    pack appears in its `custom_nodes`. `port` is a free one if it is None. `options` are further
    arguments for the host. `echo` shows the log as it comes instead of keeping it in `log`.
    """

    def __init__(
        self,
        host: Host,
        *,
        port: int | None = None,
        base: Path | None = None,
        options: Sequence[str] = (),
        echo: bool = False,
        start_seconds: float = 600,
    ) -> None:
        self.host = host
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._given_base = base
        self._options = tuple(options)
        self._echo = echo
        self._start_seconds = start_seconds
        self._stack = ExitStack()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Server:
        with ExitStack() as stack:
            if self._given_base is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="p2p-server-"))
                self.base = Path(folder)
            else:
                self.base = self._given_base.resolve()
            self.log = self.base / "server.log"
            self._check_port()
            _prepare(self.base)
            output = None if self._echo else stack.enter_context(self.log.open("wb"))
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.base,
                env=_environment(self.host),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
            stack.callback(self._stop)
            self._wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, path: str) -> Any:
        """Get the JSON that the host answers to GET `path`, such as `/object_info`."""
        return json.loads(self._request(path))

    def queue(self, prompt: Mapping[str, Any], *, seconds: float = 3600) -> dict[str, Any]:
        """Run a prompt (in the API format) to its end.

        Returns the outputs of its output nodes, by node id. Raises `PromptFailed` where the host
        refuses it or a node raises, `TimeoutError` after `seconds`.
        """
        prompt_id = self.submit(prompt)
        deadline = time.monotonic() + seconds
        while not (entry := self.get(f"/history/{prompt_id}").get(prompt_id)):
            self._check_alive()
            if time.monotonic() > deadline:
                self.interrupt()
                raise TimeoutError(f"the prompt did not finish within {seconds:g} s")
            time.sleep(POLL_SECONDS)
        if entry["status"]["status_str"] != "success":
            raise PromptFailed(_execution_error(entry["status"]["messages"]))
        return entry["outputs"]

    def submit(self, prompt: Mapping[str, Any]) -> str:
        """Queue a prompt and return its id at once; raises `PromptFailed` where it is refused."""
        try:
            answer = self._post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        except urllib.error.HTTPError as error:
            refusal = json.loads(error.read())
            raise PromptFailed(_validation_error(refusal, prompt)) from error
        if answer.get("node_errors"):  # a part of it is valid and was queued
            self._post("/queue", {"delete": [answer["prompt_id"]]})
            raise PromptFailed(_validation_error(answer, prompt))
        return answer["prompt_id"]

    def images(self, outputs: Mapping[str, Any]) -> list[Image.Image]:
        """Fetch the images among the outputs that `queue` gives, in their order."""
        return [
            Image.open(
                io.BytesIO(self._request(f"/view?{urllib.parse.urlencode(image)}")),
                formats=["PNG"],
            )
            for output in outputs.values()
            for image in output.get("images", [])
        ]

    def interrupt(self) -> None:
        """Stop the running prompt."""
        self._post("/interrupt", {})

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def wait(self) -> int:
        """Wait until the host ends by itself; returns its exit status."""
        return self._process.wait()

    def _command(self) -> list[str]:
        database = (self.base / "user" / "comfyui.db").as_posix()
        return [
            *(sys.executable, str(self.host.path / "main.py")),
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(self.base), "--database-url", f"sqlite:///{database}"),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *([] if has_accelerator() else ["--cpu", "--use-pytorch-cross-attention"]),
            *self._options,
        ]

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise ValueError(
                    f"expected a free port, got {self.port}, where a program listens: "
                    "stop that one or give another port"
                )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while True:
            self._check_alive()
            with suppress(OSError):
                self.get("/system_stats")
                return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"ComfyUI {self.host.version} did not answer within {self._start_seconds:g} s"
                    + self._log_tail()
                )
            time.sleep(POLL_SECONDS)

    def _check_alive(self) -> None:
        if (status := self._process.poll()) is not None:
            raise ServerFailed(
                f"ComfyUI {self.host.version} stopped with exit status {status}" + self._log_tail()
            )

    def _log_tail(self, lines: int = 40) -> str:
        if self._echo:
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return ":\n" + "\n".join(text.splitlines()[-lines:])

    def _stop(self) -> None:
        if os.name != "posix":
            self._process.terminate()
            self._process.wait()
            return
        for attempt in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):  # the whole group is gone
                os.killpg(self._process.pid, attempt)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self._request(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with self._opener.open(request, timeout=60) as answer:
            return answer.read()


def has_accelerator() -> bool:
    """Tell whether torch has a device to run ComfyUI on other than the CPU."""
    xpu = getattr(torch, "xpu", None)
    return (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or (xpu is not None and xpu.is_available())
    )


def bytecode_folder() -> Path:
    """Find where Python keeps a host's byte code, so that its folder stays as it is."""
    return cache_folder("bytecode")


def _environment(host: Host) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode_folder())}
    environment.pop("PYTHONSAFEPATH", None)  # the host needs its own folder on sys.path
    if (frontend := frontend_path(host)) is not None:
        path = [str(frontend), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
    return environment


def _prepare(base: Path) -> None:
    root = ROOT.resolve()
    if not (root / "pyproject.toml").is_file():
        raise ValueError(
            f"expected p2p_core in the pack's folder, got {root}: "
            "clone the whole pack and run it there"
        )
    pack = base / "custom_nodes" / PACK_NAME
    pack.parent.mkdir(parents=True, exist_ok=True)
    (base / "user").mkdir(exist_ok=True)
    if pack.is_symlink():
        pack.unlink()
    elif pack.exists():
        shutil.rmtree(pack)
    try:
        pack.symlink_to(root, target_is_directory=True)
    except OSError:  # Windows, without the right to make links
        shutil.copytree(root, pack, ignore=shutil.ignore_patterns(*NOT_IN_A_COPY))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _validation_error(answer: Mapping[str, Any], prompt: Mapping[str, Any]) -> str:
    node_errors: dict[str, Any] = answer.get("node_errors") or {}
    lines = [
        f"{node} ({prompt[node]['class_type']}): {error['message']}: {error['details']}"
        for node, errors in node_errors.items()
        for error in errors["errors"]
    ]
    if not lines:
        error: dict[str, Any] = answer["error"]
        lines = [": ".join(part for part in (error["message"], error["details"]) if part)]
    return "\n".join(lines)


def _execution_error(messages: Sequence[tuple[str, dict[str, Any]]]) -> str:
    for event, data in messages:
        where = f"{data.get('node_id')} ({data.get('node_type')})"
        if event == "execution_error":
            message = str(data["exception_message"]).strip()
            return f"{where}: {data['exception_type']}: {message}"
        if event == "execution_interrupted":
            return f"{where}: interrupted"
    return "the host gives no reason"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run ComfyUI with this pack until Ctrl-C.")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--base", type=Path, default=ROOT / "output" / "comfyui", metavar="FOLDER")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        host = find_hosts()[0]
        _say(f"Starting ComfyUI {host.version} ({host.path})")
        with Server(host, port=options.port, base=options.base, echo=True) as server:
            _say(f"Prompt-to-Prompt is in ComfyUI at {server.url} (Ctrl-C ends it)")
            return server.wait()
    except KeyboardInterrupt:
        return 0
    except (HostNotFound, ServerFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
