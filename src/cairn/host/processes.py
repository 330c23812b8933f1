"""Which processes of this machine are Cairn's, by what stands on their command lines."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")
PARTS = ("control", "agent")
# Only these are ours for naming a state directory: an editor does that, too.
ENGINES = (
    "qemu-system-",
    "qemu-img",
    "ovsdb-server",
    "ovs-vswitchd",
    "ovn-northd",
    "ovn-controller",
)


class Part(Struct, frozen=True, kw_only=True):
    """A control plane or an agent."""

    pid: int
    name: str
    state: Path


def parts() -> Iterator[Part]:
    """Every control plane and agent of this machine."""
    for pid, words in _command_lines():
        match words[1:6]:
            case ["-m", "cairn", name, "--state", state] if name in PARTS:
                yield Part(pid=pid, name=name, state=Path(state))


def raise_file_limit() -> int:
    """As many open files as the system lets this process have: a connection of each host is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def agents() -> Iterator[Part]:
    return (part for part in parts() if part.name == "agent")


def engines(state: Path) -> Iterator[int]:
    """Engines' processes that were told a path in this state directory."""
    inside = f"{state}/"
    for pid, words in _command_lines():
        program = Path(words[0]).name
        if program.startswith(ENGINES) and any(inside in word for word in words[1:]):
            yield pid


def shares_network(pid: int) -> bool:
    """Whether the process sees the interfaces that we see."""
    try:
        return (PROC / str(pid) / "ns/net").readlink() == (PROC / "self/ns/net").readlink()
    except OSError:
        return False


def name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "ended"


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has just ended
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0]:
                    yield int(entry.name), words
