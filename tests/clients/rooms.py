"""A place for a whole cloud of its own: a network namespace and a state directory, and proof of their end.

Commands are started in the namespace by `nsenter`, which, unlike `ip netns exec`, leaves the mounts as they
are: the agent makes namespaces, and those must be seen by whoever takes them away.
"""

import ctypes
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from cairn.core.ids import NetworkId
from cairn.drivers.networks import layout
from cairn.host import teardown
from cairn.settings import Settings, load

ROOT = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")


class Room:
    """One namespace with one state directory."""

    def __init__(self) -> None:
        word = secrets.token_hex(3)
        self.name = f"cvc-{word}"
        self.state = Path(f"/tmp/cvc-{word}")  # Short: unix sockets lie deep below it.

    @property
    def settings(self) -> Settings:
        return load(self.state)

    @property
    def environment(self) -> dict[str, str]:
        """For anything that runs in here: our programs first, our state directory."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "CAIRN_STATE": str(self.state)}

    def run(
        self, *words: str, timeout_s: float = 300, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the namespace."""
        command = ["nsenter", f"--net={NAMESPACES / self.name}", *words]
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
            env=self.environment | dict(variables or {}),
            stdin=subprocess.DEVNULL,
        )

    def cairn(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(sys.executable, "-m", "cairn", *words, timeout_s=500)

    def logs(self) -> str:
        """The ends of its logs, for the message of a failure."""
        return "\n".join(
            f"== {file}\n{file.read_text(errors='replace')[-3000:]}"
            for file in sorted(self.state.glob("log/*.log"))
        )

    def left_overs(self) -> list[str]:
        """What is still there of the cloud after its end."""
        left = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if str(self.state) in words:
                    left.append(f"process {entry.name}: {words[:200]}")
        links = self.run("ip", "-o", "link").stdout.splitlines()
        left += [f"interface {link}" for link in links if ": lo:" not in link]
        tables = self.run("nft", "list", "tables").stdout.splitlines()
        left += [f"firewall {table}" for table in tables]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        left += [f"mount {mount}" for mount in mounts if str(self.state) in mount]
        spaces = {path.name for path in NAMESPACES.iterdir()}
        left += [f"namespace {name}" for name in spaces & self._metadata_namespaces()]
        with inside(self):
            left += teardown.left_overs(self.settings)
        return left

    def _metadata_namespaces(self) -> set[str]:
        """What the agent calls the namespaces of the networks that the cloud had at its end."""
        if not (self.state / "control/cairn.db").exists():
            return set()  # It never came up.
        with closing(sqlite3.connect(self.state / "control/cairn.db")) as database:
            ids = [row[0] for row in database.execute("SELECT id FROM networks")]
        home = self.state / "agent/ovn"
        return {layout.metadata_namespace(NetworkId(id), home) for id in ids}


@contextmanager
def inside(room: Room) -> Iterator[None]:
    """This thread in the room's network, to look and to make connections."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NAMESPACES / room.name, os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(there)
        os.close(home)


@contextmanager
def a_room() -> Iterator[Room]:
    """A room for a cloud; whatever happens in it, it is empty and gone afterwards."""
    room = Room()
    subprocess.run(["ip", "netns", "add", room.name], check=True)
    try:
        room.run("ip", "link", "set", "lo", "up")
        yield room
    finally:
        room.cairn("down")
        shutil.rmtree(room.state, ignore_errors=True)
        subprocess.run(["ip", "netns", "del", room.name], check=True)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
