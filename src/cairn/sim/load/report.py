"""What a measured run found: records for JSON, tables for people, a sentence on the limit. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from cairn.sim.load.client import Timed

if TYPE_CHECKING:
    from rich.console import Console

BUSY = 0.9  # of one core: a process that works on one thread can do no more
FULL = 0.93  # of all cores


class Machine(Struct, frozen=True, kw_only=True):
    """Where and when, and how busy the machine was with other work."""

    when: str
    processor: str
    cores: int
    memory_gib: int
    kernel: str
    load_before: float
    commit: str = ""

    def line(self) -> str:
        at = f", commit {self.commit}" if self.commit else ""
        return (
            f"{self.when}, {self.cores} cores of {self.processor}, {self.memory_gib} GiB, Linux"
            f" {self.kernel}, load {self.load_before:.1f} when it began{at}"
        )


class Requests(Struct, frozen=True, kw_only=True):
    """Requests of one kind, as their clients saw them."""

    kind: str
    count: int
    failed: int  # without an answer, or with one of 500 and above
    p50_ms: float
    p99_ms: float
    max_ms: float


class Process(Struct, frozen=True, kw_only=True):
    name: str
    cpu_s: float
    cores: float  # of CPU on average
    loop_cores: float  # of its first thread
    rss_mib: float
    pss_mib: float


class Phase(Struct, frozen=True, kw_only=True):
    """One stretch of the run."""

    profile: str
    name: str
    seconds: float
    figures: Mapping[str, float]  # what this phase is about, by name with unit
    requests: tuple[Requests, ...]
    processes: tuple[Process, ...]
    machine_cores: float  # busy on average, whoever was
    sql_statements: float
    database_mib: float
    limit: str  # what set the limit, in a sentence

    @property
    def sql_per_s(self) -> float:
        return self.sql_statements / self.seconds if self.seconds else 0.0


class Report(Struct, frozen=True, kw_only=True):
    machine: Machine
    hosts: int
    servers: int
    seed: int
    database: str  # "SQLite" or "PostgreSQL"
    phases: tuple[Phase, ...]
    checks: tuple[str, ...]  # what was looked at in the end
    wrong: tuple[str, ...]  # what was not as promised; () is as it must be

    def phase(self, name: str) -> Phase | None:
        return next((p for p in self.phases if p.name == name), None)


def requests_of(timed: Sequence[Timed]) -> tuple[Requests, ...]:
    kinds: dict[str, list[Timed]] = {}
    for one in timed:
        kinds.setdefault(one.kind, []).append(one)
    return tuple(_requests(kind, kinds[kind]) for kind in sorted(kinds))


def _requests(kind: str, timed: Sequence[Timed]) -> Requests:
    took_ms = sorted(t.took_s * 1000 for t in timed)
    return Requests(
        kind=kind,
        count=len(timed),
        failed=sum(t.status == 0 or t.status >= 500 for t in timed),
        p50_ms=quantile(took_ms, 0.5),
        p99_ms=quantile(took_ms, 0.99),
        max_ms=took_ms[-1],
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not pass; 0 of none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def limit_of(
    processes: Sequence[Process], *, machine_cores: float, cores: int, offered: str = ""
) -> str:
    """What kept it from being faster. `offered`: what was asked of it, when it was no more than that."""
    if offered:
        return f"Nothing: it did what was asked of it ({offered})."
    busiest = max(processes, key=lambda p: max(p.cores, p.loop_cores), default=None)
    if busiest is None:
        return "Nothing ran."
    shares = ", ".join(f"{p.name} {p.cores:.0%}" for p in processes)
    others = machine_cores - sum(p.cores for p in processes)
    if machine_cores >= FULL * cores:
        beside = f", other work on the machine {others:.0%}" if others > 0.05 * cores else ""
        return f"The machine: its {cores} cores were all busy ({shares}{beside} of a core)."
    if busiest.loop_cores >= BUSY or busiest.cores >= BUSY:
        where = "its event loop" if busiest.loop_cores >= BUSY else "it"
        return f'The process "{busiest.name}": {where} used a whole core ({shares}).'
    return (
        "Waiting: no process used a whole core"
        f" ({shares} of a core); answers waited for commits, for agents or for each other."
    )


def show(report: Report, console: "Console") -> None:
    """For people."""
    from rich.table import Table

    console.print(
        f"{report.hosts:,} hosts, {report.servers:,} servers, seed {report.seed},"
        f" {report.database}\n{report.machine.line()}"
    )
    for phase in report.phases:
        console.print(f"\n[bold]{phase.profile}: {phase.name}[/bold] ({phase.seconds:.1f} s)")
        for name, value in phase.figures.items():
            console.print(f"  {name}: [bold]{number(value)}[/bold]")
        if phase.requests:
            table = Table("request", "count", "failed", "p50 ms", "p99 ms", "max ms")
            for r in phase.requests:
                table.add_row(
                    r.kind, f"{r.count:,}", str(r.failed),
                    number(r.p50_ms), number(r.p99_ms), number(r.max_ms),
                )  # fmt: skip
            console.print(table)
        table = Table("process", "CPU s", "of a core", "its loop", "RSS MiB", "PSS MiB")
        for p in phase.processes:
            table.add_row(
                p.name, f"{p.cpu_s:.2f}", f"{p.cores:.1%}", f"{p.loop_cores:.1%}",
                f"{p.rss_mib:,.0f}", f"{p.pss_mib:,.0f}",
            )  # fmt: skip
        console.print(table)
        console.print(
            f"  SQL: {phase.sql_statements:,.0f} statements ({phase.sql_per_s:,.1f}/s);"
            f" database {phase.database_mib:,.1f} MiB; machine {phase.machine_cores:.2f} cores busy"
        )
        console.print(f"  limit: {phase.limit}")
    console.print()
    for check in report.checks:
        console.print(f"  checked: {check}", style="dim")
    for line in report.wrong:
        console.print(f"  WRONG: {line}", style="red")
    if not report.wrong:
        console.print("Everything that was promised was kept.", style="green")


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
