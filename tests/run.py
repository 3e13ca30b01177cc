"""Run the tests: those without a host once, then those that need one once for each ComfyUI.

    python -I tests/run.py [arguments for pytest]

The last line adds up all runs: `12 passed, 0 failed, 3 skipped`. The exit status is 1 if anything
failed. Files of tests go to as many processes as there are cores; `-n 0` keeps all in one, for a
debugger. `-I` keeps the pack's root off `sys.path`, where its `nodes` folder would hide the host's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from p2p_core.hosts.launch.locate import HostNotFound, find_hosts

TESTS = Path(__file__).resolve().parent
HOST_TIERS = [TESTS / "host", TESTS / "server", TESTS / "browser"]
LEFT_OUT = {
    "host": "ComfyUI's models, samplers and other patches",
    "server": "nodes and workflows on its server",
    "browser": "its canvas",
}
"""What stays untested where there is no ComfyUI."""
CORES = os.cpu_count() or 1
WORKERS = min(CORES, 4)
"""Processes at once; each may hold a ComfyUI, its server and a browser, in about 4 GB."""
PARALLEL = ["-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]
"""Files in their order: a browser leaves an event loop in its process, which other tests bring."""
NO_TESTS = 5
"""Exit status of pytest where it found no test."""


@dataclass(frozen=True)
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        hosts = find_hosts()
        remedy = ""
    except HostNotFound as error:
        hosts, remedy = [], str(error)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    total = run("Tests without ComfyUI", [TESTS / "unit", TESTS / "headless"], arguments)
    for host in hosts:
        title = f"Tests with ComfyUI {host.version} ({host.path})"
        total += run(title, HOST_TIERS, arguments, P2P_HOST=str(host.path))
    if not hosts:
        without = {tier: run(f"Tests in {tier.name}", [tier], arguments) for tier in HOST_TIERS}
        total = sum(without.values(), total)
        left_out = ", ".join(
            f"{counts.skipped + counts.failed} in tests/{tier.name} ({LEFT_OUT[tier.name]})"
            for tier, counts in without.items()
        )
        say(f"Left out: {left_out}; {remedy}")
    say(f"{total}")
    return 1 if total.failed else 0


def run(title: str, folders: list[Path], arguments: list[str], **variables: str) -> Counts:
    """Run pytest in a process of its own on those of `folders` that have tests; count results."""
    folders = [folder for folder in folders if any(folder.glob("**/test_*.py"))]
    if not folders:
        return Counts()
    say(f"\n{title}")
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "pytest", "-q", f"--junitxml={report}", *PARALLEL]
            + [str(folder) for folder in folders]
            + arguments,
            cwd=TESTS.parent,
            env={"OMP_NUM_THREADS": str(CORES // WORKERS), **os.environ, **variables},
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # lets the fixtures end their servers
            process.wait()
            raise
        counts = read_report(report) if report.exists() else Counts()
    if status not in (0, NO_TESTS) and not counts.failed:
        counts += Counts(failed=1)  # pytest itself, or the whole process
    return counts


def read_report(report: Path) -> Counts:
    """Counts of a JUnit report as pytest writes it."""
    total = Counts()
    for suite in ElementTree.parse(report).iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        total += Counts(max(tests - failed - skipped, 0), failed, skipped)
    return total


def say(line: str) -> None:
    """Write a line at once, so that it stands before what pytest writes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
