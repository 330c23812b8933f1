"""A guest's process, held by pidfd: started as an unprivileged user, found again, watched, ended.

No pid is ever trusted from a file. A process is ours because the kernel says so: its uid is one of
ours and its working directory is the guest's, and only root can put a process there. Signals go
through the pidfd, so they cannot hit a stranger that got the same number.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cairn.core.errors import Unavailable
from cairn.drivers.hypervisor.uids import UidRange

LOG = "qemu.log"
TERM_S_MAX = 4.0
KILL_S_MAX = 4.0
_PIDFD_GETFD = 438  # the same number on every architecture (Linux 5.6)

_TCP_ESTABLISHED = 1  # include/net/tcp_states.h

_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """Watches one process; `on_gone` is called on the loop once, after it was reaped."""

    def __init__(self, pid: int, on_gone: Callable[[], None] | None = None) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._loop.add_reader(self._pidfd, self._readable)

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def gone(self) -> None:
        await self._gone.wait()

    def signal(self, number: int) -> None:
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def end(self) -> None:
        """Ask QEMU to quit, which flushes its disks, then kill it. Unavailable: it outlived both."""
        for number, timeout_s in ((signal.SIGTERM, TERM_S_MAX), (signal.SIGKILL, KILL_S_MAX)):
            self.signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    return await self.gone()
        raise Unavailable(
            "the guest's process does not end", because=f"pid {self.pid} outlived SIGKILL"
        )

    def connections(self) -> Iterator[socket.socket]:
        """Its TCP connections that stand, as sockets of ours: what is set on them holds for it, too.

        QEMU has no way to say how long it would wait for a host that is gone, and waits a quarter of an
        hour."""
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if not stat.S_ISSOCK(entry.stat().st_mode):
                    continue
                fd = _libc.syscall(_PIDFD_GETFD, self._pidfd, int(entry.name), 0)
                if fd < 0:
                    continue
                with socket.socket(fileno=fd) as ours:
                    if ours.family == socket.AF_INET and _stands(ours):
                        yield ours

    def let_go(self) -> None:
        """Stop watching; the process goes on."""
        if not self.is_gone:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._gone.set()

    def _readable(self) -> None:
        # Ours to reap if we are its parent; after the parent's death it is init's.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self.let_go()
        if self._on_gone is not None:
            self._on_gone()


def _stands(connection: socket.socket) -> bool:
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == _TCP_ESTABLISHED


def spawn(
    argv: Sequence[str], *, uid: int, groups: Sequence[int], home: Path, fds: Iterable[int]
) -> int:
    """Start QEMU as `uid` in its directory, in a session of its own so that it outlives us; its pid.

    The uid is set here and not by `-runas`, which the seccomp filter kills. The call takes a few
    milliseconds, so it may stay on the loop.
    """
    with (home / LOG).open("wb") as log:
        process = subprocess.Popen(
            list(argv),
            user=uid,
            group=uid,
            extra_groups=list(groups),
            umask=0o077,
            cwd=home,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=tuple(fds),
            start_new_session=True,
        )
    process.returncode = 0  # Its end is watched and reaped through a pidfd, not by Popen.
    return process.pid


def find(guests: Path, uids: UidRange) -> dict[str, list[int]]:
    """Pids of all guests' processes under `guests`, by the name of their directory."""
    found: dict[str, list[int]] = {}
    prefix = f"{guests.resolve()}/"
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            place = str((entry / "cwd").readlink()).removesuffix(" (deleted)")
            if place.startswith(prefix) and entry.stat().st_uid in uids:
                found.setdefault(place.removeprefix(prefix), []).append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # It ended while we looked.
    return found
