"""The control plane with ten thousand hosts, against its aims: what `cairn sim --hosts` finds, as a table.

Real control process, real agents over fake engines, real TCP with mutual TLS, SQLite in a file. OpenStack's
side is what one compute host's agent and all its daemons cost on a machine of this kind (openstack.py).
"""

import uvloop

from bench import openstack
from bench.table import Result, ratio
from cairn.sim.load.report import Phase, Report
from cairn.sim.load.run import play
from cairn.sim.load.show import Load

HOSTS = 10_000
SERVERS = 100_000
SMALL = 1000  # to tell what each further host costs
BURST = 3000
PROFILES = ("steady", "boot-storm", "reconnect-storm")
OPENSTACK_HOST_MIB = 141  # of each host's nova-compute and neutron agents
OPENSTACK_HOST_STATEMENTS = 72  # a minute, of each idle host


def run() -> list[Result]:
    small = _play(SMALL, SERVERS * SMALL // HOSTS, ("steady",))
    large = _play(HOSTS, SERVERS, PROFILES)
    for report in (small, large):
        if report.wrong:
            raise SystemExit("bench: " + "\n".join(report.wrong))
    return [_aims(small, large), *_limits(large)]


def _play(hosts: int, servers: int, profiles: tuple[str, ...]) -> Report:
    load = Load(
        hosts=hosts, servers=servers, seed=7, profiles=profiles, burst=BURST, rate=20.0, seconds=30
    )
    return uvloop.run(play(load, tell=lambda what: None))


def _aims(small: Report, large: Report) -> Result:
    idle, start = _phase(large, "idle"), _phase(large, "after the control plane's restart")
    create, delete = _phase(large, "create"), _phase(large, "delete")
    more_kib = (_pss_mib(large) - _pss_mib(small)) * 1024 / (HOSTS - SMALL)
    life_ms = delete.figures["control CPU ms per server created and deleted"]
    a_minute = idle.sql_statements * 60 / idle.seconds / HOSTS
    reconnect_s = start.figures["s until every host was connected"]
    born = openstack.OPENSTACK_MS["a server without network, created and deleted"]
    page_ms = _phase(large, "read").figures["control CPU ms a page"]
    rows = (
        _row("idle, % of a core", idle.figures["control % of a core"], "≤ 5"),
        _row("idle, control PSS MiB", idle.figures["control PSS MiB"], "≤ 1,024"),
        _row("each further idle host, KiB", more_kib, "≤ 60", OPENSTACK_HOST_MIB * 1024),
        _row("each idle host, SQL a minute", a_minute, "0", OPENSTACK_HOST_STATEMENTS),
        _row("all reconnected after a restart, s", reconnect_s, "< 30"),
        _row("API p99 meanwhile, ms", start.figures["API p99 ms meanwhile"], "< 1,000"),
        _row("servers to ACTIVE a second", create.figures["servers to ACTIVE per second"], "≥ 300"),
        _row("a server's life, CPU ms", life_ms, "≤ 10", born),
        _row("a page of 1,000 of 100,000 servers, CPU ms", page_ms, "< 60"),
    )
    return Result(
        title=f"{HOSTS:,} hosts, {SERVERS:,} servers: the control plane against its aims",
        columns=("what", "Cairn", "aim", "OpenStack", "Cairn / OpenStack"),
        rows=rows,
        notes=(
            "Clients and all agents ran on the same cores; what a number a second was limited by"
            " stands in the next table.",
        ),
    )


def _limits(large: Report) -> list[Result]:
    rows = tuple((p.profile, p.name, f"{p.machine_cores:.2f}", p.limit) for p in large.phases)
    return [
        Result(
            title="What set the limit",
            columns=("profile", "phase", "cores busy", "limit"),
            rows=rows,
        )
    ]


def _row(what: str, ours: float, aim: str, theirs: float | None = None) -> tuple[str, ...]:
    return (
        what,
        f"{ours:,.3g}" if ours < 1000 else f"{ours:,.0f}",
        aim,
        f"{theirs:,.0f}" if theirs is not None else "-",
        ratio(ours, theirs) if theirs is not None else "-",
    )


def _phase(report: Report, name: str) -> Phase:
    found = report.phase(name)
    assert found is not None, f"the run had no phase '{name}'"
    return found


def _pss_mib(report: Report) -> float:
    return _phase(report, "idle").figures["control PSS MiB"]
