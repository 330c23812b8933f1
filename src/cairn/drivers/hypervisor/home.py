"""A guest's directory: its record, its sockets, its logs.

It belongs to root, and for a moment to the guest: QEMU opens its screen's socket, its log and its
config drive by name, so the directory is its own until the virtual CPUs run and closed to it from then
on. What a broken-out guest puts in place of a file, as a link to another's, could otherwise be opened
by the agent, as root. The other sockets are made by the agent and inherited.
"""

import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

from cairn.core.ids import ServerId
from cairn.drivers.hypervisor import command, console, process, record

QMP_SOCKET = "qmp.sock"
SERIAL_SOCKET = "serial.sock"
AGENT_SOCKET = "agent.sock"
ONLY_WHILE_RUNNING = (
    QMP_SOCKET,
    SERIAL_SOCKET,
    AGENT_SOCKET,
    command.VNC_SOCKET,
    command.CONFIG_DRIVE,
)


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ServerId(path.name)

    @property
    def qmp_socket(self) -> Path:
        return self.path / QMP_SOCKET

    @property
    def vnc_socket(self) -> Path:
        return self.path / command.VNC_SOCKET

    @property
    def console_log(self) -> Path:
        return self.path / command.CONSOLE_LOG

    def make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> record.GuestRecord | None:
        return record.load(self.path)

    def save(self, known: record.GuestRecord, *, lasting: bool = False) -> None:
        record.save(self.path, known, lasting=lasting)

    def open_to(self, uid: int, config_drive: bytes | None) -> None:
        """Let QEMU find what it opens by name."""
        self.clear()
        self.console_log.touch(mode=0o600)
        mine = [self.path, self.console_log]
        if config_drive is not None:
            drive = self.path / command.CONFIG_DRIVE
            drive.touch(mode=0o600)
            drive.write_bytes(config_drive)
            mine.append(drive)
        for path in mine:
            os.chown(path, uid, uid)

    def close(self) -> None:
        """QEMU has opened what it needs: from here on it has no way in."""
        os.chown(self.path, 0, 0)

    def listen(self, ours: ExitStack) -> command.Listeners:
        """Listening sockets for QEMU to inherit; our own ends close with `ours`."""

        def listen(name: str) -> int:
            listener = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(self.path / name))
            (self.path / name).chmod(0o600)
            listener.listen(1)
            return listener.fileno()

        return command.Listeners(
            qmp=listen(QMP_SOCKET), serial=listen(SERIAL_SOCKET), agent=listen(AGENT_SOCKET)
        )

    def last_words(self) -> str:
        """What QEMU wrote to its standard error in this boot."""
        try:
            return (self.path / process.LOG).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def trim(self) -> None:
        console.trim(self.console_log)
        console.trim(self.path / process.LOG)

    def clear(self) -> None:
        """Remove what only a running guest needs; the record and the logs stay."""
        for name in ONLY_WHILE_RUNNING:
            (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
