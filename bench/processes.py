"""What processes cost: processor time, memory.

Processor time is read from the process's own clock, which counts nanoseconds over all its threads, ended
ones too; `/proc/PID/stat` counts in hundredths of a second.
"""

import contextlib
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct


class Memory(Struct, frozen=True, kw_only=True):
    rss_mib: float
    pss_mib: float  # shared pages counted in parts


def cpu_s(pid: int) -> float:
    """Processor time of a process so far; 0 when it is gone."""
    # linux/include/linux/posix-timers_types.h: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def cpu_of(pids: Iterable[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)


def memory(pid: int) -> Memory:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.M)}
    return Memory(rss_mib=kib["Rss"] / 1024, pss_mib=kib["Pss"] / 1024)


def command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words := [word for word in words if word]:
                    yield int(entry.name), words
