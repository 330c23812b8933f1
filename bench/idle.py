"""What Cairn costs while nobody uses it: memory, processor time and SQL over one idle minute.

With the demonstration's server running. Cairn's own processes, the network engine's daemons and the
guests are listed apart: OpenStack's figures (openstack.py names the source) have no network engine and
no guests in them.
"""

import time

from bench import openstack, processes
from bench.cloud import Whole
from bench.table import Result, ratio

IDLE_S = 60.0
SETTLE_S_MAX = 20.0
QUIET = 0.5  # of a core: what the guest's boot takes is above it


def run(whole: Whole) -> list[Result]:
    groups = {"Cairn": whole.own(), "OVS and OVN": whole.engines(), "guests": whole.guests()}
    _wait_until_booted(list(groups["guests"].values()))
    with whole.client() as client:
        began, statements = time.monotonic(), client.statements()
    before = {pid: processes.cpu_s(pid) for group in groups.values() for pid in group.values()}
    time.sleep(IDLE_S)
    lasted_s = time.monotonic() - began
    spent = {pid: processes.cpu_s(pid) - cpu for pid, cpu in before.items()}
    with whole.client() as client:
        statements = client.statements() - statements
    rows, own_pss_mib, own_cpu = [], 0.0, 0.0
    for title, group in groups.items():
        parts = [_Cost(name, pid, spent[pid] / lasted_s) for name, pid in group.items()]
        if title != "guests":
            rows += [part.row() for part in parts]
        total = _total(f"{title}: {len(parts)}", parts)
        rows.append(total)
        if title == "Cairn":
            own_pss_mib, own_cpu = sum(p.pss_mib for p in parts), sum(p.cpu for p in parts)
    return [
        Result(
            title=f"Idle for {lasted_s:.0f} s, one server running",
            columns=("process", "RSS MiB", "PSS MiB", "CPU of a core"),
            rows=tuple(rows),
        ),
        _against_openstack(len(groups["Cairn"]), own_pss_mib, own_cpu, statements * 60 / lasted_s),
    ]


class _Cost:
    def __init__(self, name: str, pid: int, cpu: float) -> None:
        memory = processes.memory(pid)
        self.name, self.cpu = name, cpu
        self.rss_mib, self.pss_mib = memory.rss_mib, memory.pss_mib

    def row(self) -> tuple[str, ...]:
        return _cells(f"  {self.name}", self.rss_mib, self.pss_mib, self.cpu)


def _total(name: str, parts: list[_Cost]) -> tuple[str, ...]:
    return _cells(
        name,
        sum(part.rss_mib for part in parts),
        sum(part.pss_mib for part in parts),
        sum(part.cpu for part in parts),
    )


def _cells(name: str, rss_mib: float, pss_mib: float, cpu: float) -> tuple[str, ...]:
    return name, f"{rss_mib:.0f}", f"{pss_mib:.0f}", f"{cpu:.2%}"


def _against_openstack(count: int, pss_mib: float, cpu: float, statements: float) -> Result:
    theirs = openstack.IDLE
    return Result(
        title="Idle, Cairn's own processes against OpenStack's services",
        columns=("", "Cairn", "OpenStack", "Cairn / OpenStack"),
        rows=(
            ("processes", f"{count}", f"{theirs.processes}", ratio(count, theirs.processes)),
            (
                "PSS, MiB",
                f"{pss_mib:.0f}",
                f"{theirs.pss_mib:,.0f}",
                ratio(pss_mib, theirs.pss_mib),
            ),
            ("CPU of a core", f"{cpu:.2%}", f"{theirs.cpu:.1%}", ratio(cpu, theirs.cpu)),
            (
                "SQL a minute",
                f"{statements:.0f}",
                f"{theirs.statements_a_minute:.0f}",
                ratio(statements, theirs.statements_a_minute),
            ),
        ),
        notes=(
            "SQL: the control plane's; the two sign-ins and two readings of the count are in it."
            " OpenStack: one compute with the fake driver, database and queue included.",
        ),
    )


def _wait_until_booted(guests: list[int]) -> None:
    """A guest that still boots is not idle; one that never comes to rest is measured as it is."""
    end_s = time.monotonic() + SETTLE_S_MAX
    while time.monotonic() < end_s:
        before = processes.cpu_of(guests)
        time.sleep(1)
        if processes.cpu_of(guests) - before < QUIET:
            return
