"""Clouds to measure: a whole one in a network namespace of its own, and one on fake hosts.

Everything is started as a user would start it, by `./cairn`'s own commands; the namespace only keeps it
from whatever else this machine runs. `whole()` is started once and shared by the benchmarks of one run.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from bench import processes
from bench.client import Client
from cairn import settings as settings_file
from cairn.host import supervise
from cairn.settings import Settings
from cairn.sim.dev import PASSWORD as DEV_PASSWORD

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
_CLONE_NEWNET = 0x40000000
_START_S_MAX = 60.0


class Whole(Struct, frozen=True, kw_only=True):
    """A running cloud with the demonstration's server."""

    settings: Settings

    def client(self, *, project: str = "admin") -> Client:
        made = Client(self.settings.api_url, authority=self.settings.certs_dir / "ca.crt")
        password = (self.settings.credentials_dir / "admin-password").read_text().strip()
        made.sign_in(password, project=project)
        return made

    def own(self) -> dict[str, int]:
        """Cairn's processes by name."""
        told = supervise.look(self.settings.state)
        assert told, "the cloud has ended"
        parts = {name: int(part["pid"]) for name, part in told["parts"].items()}
        return {"supervisor": int(told["pid"]), **parts}

    def engines(self) -> dict[str, int]:
        """The daemons of OVS and OVN by name."""
        folder = self.settings.agent_dir / "ovn" / "run"
        return {file.stem: int(file.read_text()) for file in sorted(folder.glob("*.pid"))}

    def guests(self) -> dict[str, int]:
        """QEMU's processes by server id."""
        state = str(self.settings.state)
        return {
            words[words.index("-uuid") + 1]: pid
            for pid, words in processes.command_lines()
            if "qemu-system" in words[0] and state in f"{cwd(pid)} {' '.join(words)}"
        }


def cwd(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/cwd").readlink())
    return ""


@contextmanager
def namespace() -> Iterator[str]:
    """This thread, and all that it starts, in a network namespace of its own."""
    name = f"cvb-{secrets.token_hex(3)}"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        enter(name)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        _set_namespace(home)
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True)


def enter(name: str) -> None:
    inside = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _set_namespace(inside)
    finally:
        os.close(inside)


def _set_namespace(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def whole() -> Iterator[Whole]:
    """`up --demo`, and its undoing."""
    state = Path(f"/tmp/cvb-{secrets.token_hex(3)}")  # Short: unix sockets lie deep below it.
    with namespace():
        settings = settings_file.load(state)
        try:
            cairn(state, "up", "--demo")
            yield Whole(settings=settings)
        finally:
            cairn(state, "down")
            cairn(state, "wipe", "--yes")


def cairn(state: Path, *words: str) -> None:
    """One command; its output is shown only when it fails."""
    command = [sys.executable, "-m", "cairn", *words, "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd="/")
    if done.returncode != 0:
        raise SystemExit(f"bench: `cairn {' '.join(words)}` failed\n{done.stdout}\n{done.stderr}")


class Dev(Struct, frozen=True, kw_only=True):
    """A `cairn dev`: control plane and agents over fake engines, in one process."""

    url: str
    pid: int
    folder: Path

    def client(self) -> Client:
        made = Client(self.url)
        made.sign_in(DEV_PASSWORD)
        return made

    def database(self) -> Path:
        (found,) = self.folder.glob("cairn-dev-*/cairn.db")
        return found


@contextmanager
def dev(*, hosts: int) -> Iterator[Dev]:
    folder = Path(f"/tmp/cvb-{secrets.token_hex(3)}")
    folder.mkdir(mode=0o700)
    port = free_port()
    words = ["dev", "--port", str(port), "--hosts", str(hosts)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cairn", *words],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    try:
        wait_for_port(port, process, folder / "log")
        yield Dev(url=f"http://127.0.0.1:{port}", pid=process.pid, folder=folder)
    finally:
        end(process)
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when something listens; end the benchmark with the log's end when nothing will."""

    def listens() -> bool | None:
        if process.poll() is not None:
            raise SystemExit(f"bench: {process.args!r} has ended:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return None

    until(listens, "an open port", within_s=_START_S_MAX)


def until(look: Callable[[], T | None], what: str, *, within_s: float, every_s: float = 0.05) -> T:
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not come about within {within_s:.0f} s")
        time.sleep(every_s)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
