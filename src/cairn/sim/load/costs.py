"""What processes cost: processor time, memory; and how busy the machine is.

Processor time is read from the process's own clock, which counts nanoseconds over all its threads, ended
ones too; `/proc/PID/stat` counts in hundredths of a second.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

_TICKS = os.sysconf("SC_CLK_TCK")


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


def main_thread_cpu_s(pid: int) -> float:
    """Of the first thread alone: in our processes that is the event loop."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS
    return 0.0


def memory(pid: int) -> Memory:
    """Zeros when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return Memory(rss_mib=0.0, pss_mib=0.0)
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.M)}
    return Memory(rss_mib=kib.get("Rss", 0) / 1024, pss_mib=kib.get("Pss", 0) / 1024)


def machine_cpu_s() -> float:
    """Processor time that all cores together have spent on anything, stolen time included."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = numbers
    return (user + nice + system + irq + softirq + steal) / _TICKS


def children(pid: int) -> list[int]:
    """A process's own children now."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
