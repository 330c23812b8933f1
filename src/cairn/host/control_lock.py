"""Who works with a state directory's control plane: one process at a time.

It is either the control process itself or a command that moves its database meanwhile. The lock is the
kernel's, so that it ends with its holder; what the file says is for those who find it taken.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from cairn.core.errors import Conflict

SERVES = "control"
MOVES = "migrate"
LOOK_S = 0.1


@contextlib.contextmanager
def held(file: Path, *, as_: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock. A process that serves waits for one that moves, however long it takes; else Conflict
    if the lock is not free within `wait_s`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as lock:
        _take(lock, file, as_, wait_s)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()} {as_}\n")
        lock.flush()
        yield


def holder(file: Path) -> tuple[int, str] | None:
    """Number and purpose of the process that holds the lock; None if nobody does."""
    try:
        with file.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _told(lock)
            return None
    except FileNotFoundError:
        return None


def _take(lock: TextIO, file: Path, as_: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, purpose = _told(lock)
            may_wait = as_ == SERVES and purpose != SERVES  # No purpose: it is about to say it.
            if not may_wait and time.monotonic() > deadline:
                raise Conflict(
                    f"process {pid} ({purpose}) already works with {file.parent.parent}"
                ) from None
            time.sleep(LOOK_S)
        else:
            return


def _told(lock: TextIO) -> tuple[int, str]:
    lock.seek(0)
    pid, _, purpose = lock.read().strip().partition(" ")
    return int(pid) if pid.isdecimal() else 0, purpose
