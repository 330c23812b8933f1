"""What processes cost (as the simulator measures it), and which there are."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cairn.sim.load.costs import Memory, cpu_of, cpu_s, memory

__all__ = ["Memory", "command_lines", "cpu_of", "cpu_s", "memory"]


def command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words := [word for word in words if word]:
                    yield int(entry.name), words
