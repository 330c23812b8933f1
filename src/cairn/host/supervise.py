"""Keeps control plane and agent running where no init system does.

One small process for each state directory: it starts both, starts them again with growing pauses when
they die, and ends them when it is told to. Guests and the network's daemons are nobody's children here;
they live on. It imports nothing that it does not need, because it stays for as long as the cloud does.

What it knows stands in `run/supervisor.json`; that it lives is proven by the lock it holds, never by a
process number, which the kernel may have given to somebody else.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

PARTS = ("control", "agent")
PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 30.0
STEADY_S = 60.0  # a part that lived this long is started again at once
STOP_S_MAX = 20.0  # for a part to end by itself before it is killed
LOG_BYTES_MAX = 32 << 20
LOG_LOOK_S = 60.0
LOCK_TRIES = 5
PR_SET_PDEATHSIG = 1  # prctl(2)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


_libc = ctypes.CDLL(None, use_errno=True)


class AlreadyRunning(Exception):
    """Another supervisor holds the state directory."""


class Part:
    """One of the processes, and when it may be started again."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self.log = state / "log" / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.since = 0.0
        self.restarts = 0
        self.last_end = ""
        self.pause_s = PAUSE_S_MIN
        self.due = 0.0  # on the monotonic clock
        self.command = [sys.executable, "-m", "cairn", name, "--state", str(state)]

    def start(self) -> None:
        supervisor = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for the supervisor, which ends its parts in order.
                process_group=0,
                preexec_fn=lambda: _become_part_of(supervisor),  # noqa: PLW1509 - this process has no other thread
            )
        self.since = time.time()

    def notice_end(self) -> bool:
        """Whether the process was found to have ended; then it is due after a pause."""
        if self.process is None or self.process.poll() is None:
            return False
        code = self.process.returncode
        self.last_end = f"ended with {code}" if code >= 0 else f"killed by signal {-code}"
        lived_s = time.time() - self.since
        self.pause_s = PAUSE_S_MIN if lived_s > STEADY_S else min(self.pause_s * 2, PAUSE_S_MAX)
        self.due = time.monotonic() + self.pause_s
        self.process = None
        self.since = time.time()
        self.restarts += 1
        return True

    def shown(self) -> dict[str, object]:
        return {
            "pid": self.process.pid if self.process else None,
            "since": self.since,
            "restarts": self.restarts,
            "last_end": self.last_end,
        }


def look(state: Path) -> dict[str, Any] | None:
    """What the supervisor of this state directory last wrote down; None if none is running."""
    if not is_running(state):
        return None
    try:
        told: dict[str, Any] = json.loads((state / "run" / "supervisor.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return told


def is_running(state: Path) -> bool:
    """Whether a supervisor holds the lock of this state directory."""
    try:
        with (state / "run" / "supervisor.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def run(state: Path, names: Sequence[str] = PARTS) -> None:
    """Supervise these parts until told to end. Raises AlreadyRunning."""
    lock = _take_lock(state)
    # Signals are waited for, not handled: nothing happens between two statements.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parts = [Part(name, state) for name in names]
    began = time.time()
    for part in parts:
        part.log.parent.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            changed = [part for part in parts if part.notice_end()]
            now = time.monotonic()
            for part in parts:
                if part.process is None and now >= part.due:
                    part.start()
                    changed.append(part)
            if changed:
                _write_down(state, began, parts)
            waiting = [part.due - now for part in parts if part.process is None]
            for part in parts:
                _bound_log(part.log)
            came = signal.sigtimedwait(SIGNALS, max(0.0, min([LOG_LOOK_S, *waiting])))
            if came and came.si_signo in (signal.SIGTERM, signal.SIGINT):
                return
    finally:
        _stop(parts)
        (state / "run" / "supervisor.json").unlink(missing_ok=True)
        lock.close()


def _take_lock(state: Path) -> TextIO:
    folder = state / "run"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "supervisor.lock").open("a")
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)  # It may be somebody who only looks, in `is_running`.
        else:
            return lock
    lock.close()
    raise AlreadyRunning(f"Cairn already runs from {state}")


def _become_part_of(supervisor: int) -> None:
    """In the new process, before its program: hear signals again, and end when the supervisor does.

    The kernel tells a process of its parent's death only from when it was asked to (prctl(2)), so a
    parent that died before is looked for afterwards. `Popen` returns once the program was started, so
    whoever reads a process number here reads one that will end with the supervisor, however that ends.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0 or os.getppid() != supervisor:
        os._exit(1)


def _write_down(state: Path, began: float, parts: list[Part]) -> None:
    told = {
        "pid": os.getpid(),
        "since": began,
        "parts": {part.name: part.shown() for part in parts},
    }
    fresh = state / "run" / ".supervisor.json.new"
    fresh.write_text(json.dumps(told))
    fresh.rename(state / "run" / "supervisor.json")


def _bound_log(log: Path) -> None:
    """Keep the last log and the one before. The process has it open, so it is emptied in place."""
    try:
        if log.stat().st_size <= LOG_BYTES_MAX:
            return
    except FileNotFoundError:
        return
    with log.open("rb") as full, log.with_suffix(".log.1").open("wb") as kept:
        while piece := full.read(1 << 20):
            kept.write(piece)
    os.truncate(log, 0)


def _stop(parts: list[Part]) -> None:
    """End all parts at once; kill what does not end."""
    running = [part.process for part in parts if part.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_S_MAX
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    try:
        # A host that joined has no control plane: `cairn.host.supervise STATE agent`.
        run(Path(sys.argv[1]), sys.argv[2:] or PARTS)
    except AlreadyRunning as other:
        sys.exit(f"cairn: {other}")
