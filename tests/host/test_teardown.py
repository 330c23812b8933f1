"""Processes of one state directory are found and ended; others are left alone."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.core.errors import Invalid
from cairn.host import processes, teardown
from cairn.settings import Settings


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def _named(program: str, *words: str) -> "subprocess.Popen[bytes]":
    """A process whose command line reads as given; it only sleeps."""
    script = "import signal; signal.pause()"
    return subprocess.Popen([program, "-c", script, *words], executable="/usr/bin/python3")


def test_engine_is_found_by_the_directory_that_it_was_told(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    ours = _named("ovs-vswitchd", f"unix:{tmp_path}/agent/ovn/run/db.sock")
    neighbour = _named("ovs-vswitchd", f"unix:{tmp_path}-other/agent/ovn/run/db.sock")
    editor = _named("vim", f"{tmp_path}/cairn.toml")
    started += [ours, neighbour, editor]
    assert list(processes.engines(tmp_path)) == [ours.pid]
    teardown._end([ours.pid], within_s=10.0)
    assert ours.wait(timeout=10) < 0
    assert neighbour.poll() is None
    assert editor.poll() is None


def test_process_that_does_not_hear_is_killed(
    started: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; : >{ready}; while :; do sleep 0.1; done"
    deaf = subprocess.Popen(["/bin/sh", "-c", script])
    started.append(deaf)
    while not ready.exists():
        os.sched_yield()
    teardown._end([deaf.pid], within_s=0.2)
    assert deaf.wait(timeout=10) == -9


def test_wipe_refuses_a_folder_that_is_not_cairns(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Invalid, match="not a state directory"):
        teardown.wipe(Settings(state=tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_wipe_deletes_what_prepare_made(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "node-id").write_text("x")
    teardown.wipe(Settings(state=state))
    assert not state.exists()
    teardown.wipe(Settings(state=state))
