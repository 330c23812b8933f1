"""The supervisor keeps two processes running and ends them with itself.

The two are small stand-ins: a package `cairn` in front of ours on the path, whose parts only wait.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.host import supervise

WAITS = "import signal\nsignal.pause()\n"
FAILS = "import sys\nif sys.argv[1] == 'agent':\n    sys.exit(3)\nimport signal\nsignal.pause()\n"


class Rig:
    """A supervisor over stand-ins, in a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.code = folder / "code"
        source = Path(supervise.__file__)
        (self.code / "cairn/host").mkdir(parents=True)
        (self.code / "cairn/__init__.py").touch()
        (self.code / "cairn/host/__init__.py").touch()
        shutil.copy(source, self.code / "cairn/host/supervise.py")
        self.process: subprocess.Popen[str] | None = None

    def start(self, program: str = WAITS) -> "subprocess.Popen[str]":
        (self.code / "cairn/__main__.py").write_text(program)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cairn.host.supervise", str(self.state)],
            env={"PYTHONPATH": str(self.code), "PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def parts(self) -> dict[str, Any]:
        known = supervise.look(self.state) or {}
        found: dict[str, Any] = known.get("parts", {})
        return found

    def pids(self) -> dict[str, int]:
        return {name: part["pid"] for name, part in self.parts().items() if part["pid"]}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.communicate()


def _until(look: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_killed_part_is_started_again(rig: Rig) -> None:
    rig.start()
    _until(lambda: len(rig.pids()) == 2)
    before = rig.pids()
    os.kill(before["agent"], signal.SIGKILL)
    _until(lambda: rig.pids().get("agent", before["agent"]) != before["agent"])
    assert rig.pids()["control"] == before["control"]
    assert rig.parts()["agent"]["restarts"] == 1
    assert rig.parts()["agent"]["last_end"] == "killed by signal 9"


def test_part_that_ends_again_and_again_is_started_ever_later(rig: Rig) -> None:
    rig.start(FAILS)
    _until(lambda: bool(rig.parts()) and rig.parts()["agent"]["restarts"] >= 3)
    assert rig.parts()["agent"]["last_end"] == "ended with 3"
    assert rig.parts()["control"]["restarts"] == 0


def test_sigterm_ends_both_parts(rig: Rig) -> None:
    process = rig.start()
    _until(lambda: len(rig.pids()) == 2)
    pids = rig.pids()
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert not any(_is_alive(pid) for pid in pids.values())
    assert not supervise.is_running(rig.state)
    assert supervise.look(rig.state) is None


def test_parts_end_with_a_killed_supervisor(rig: Rig) -> None:
    process = rig.start()
    _until(lambda: len(rig.pids()) == 2)
    pids = rig.pids()
    process.kill()
    process.wait()
    _until(lambda: not any(_is_alive(pid) for pid in pids.values()))
    assert not supervise.is_running(rig.state)


def test_second_supervisor_ends_with_a_clear_message(rig: Rig) -> None:
    rig.start()
    _until(lambda: len(rig.pids()) == 2)
    first = rig.process
    second = rig.start()
    try:
        _, said = second.communicate(timeout=30)
    finally:
        rig.process = first
    assert second.returncode == 1
    assert said.strip() == f"cairn: Cairn already runs from {rig.state}"


def test_it_stays_small(rig: Rig) -> None:
    process = rig.start()
    _until(lambda: len(rig.pids()) == 2)
    status = Path(f"/proc/{process.pid}/status").read_text()
    rss_kib = int(status.split("VmRSS:")[1].split()[0])
    assert rss_kib < 20 * 1024


def test_full_log_is_kept_once_and_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES_MAX", 10)
    log = tmp_path / "agent.log"
    log.write_text("more than ten bytes")
    supervise._bound_log(log)
    assert log.read_text() == ""
    assert (tmp_path / "agent.log.1").read_text() == "more than ten bytes"


def test_what_is_written_down_is_whole_json(rig: Rig) -> None:
    rig.start()
    _until(lambda: len(rig.pids()) == 2)
    told = json.loads((rig.state / "run/supervisor.json").read_text())
    assert set(told) == {"pid", "since", "parts"}
