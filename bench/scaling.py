"""`python -m bench.scaling`: measure clouds of some sizes and write the table of docs/guide/scaling.md anew.

Everything between the two markers is replaced; the text around them is written by people.
"""

from pathlib import Path

import click
import uvloop
from msgspec import Struct

from cairn.sim.load.display import Display
from cairn.sim.load.report import Phase, Report, number
from cairn.sim.load.run import play
from cairn.sim.load.show import Load

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "scaling.md"
BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"
SIZES = ((10, 100), (100, 1000), (1000, 10_000), (10_000, 100_000))
PROFILES = ("steady", "boot-storm", "reconnect-storm")


class Column(Struct, frozen=True, kw_only=True):
    title: str
    phase: str
    figure: str


COLUMNS = (
    Column(title="idle CPU, % of a core", phase="idle", figure="control % of a core"),
    Column(title="memory (PSS), MiB", phase="idle", figure="control PSS MiB"),
    Column(title="to ACTIVE, servers/s", phase="create", figure="servers to ACTIVE per second"),
    Column(
        title="CPU per server's life, ms",
        phase="delete",
        figure="control CPU ms per server created and deleted",
    ),
    Column(title="page of 1,000, CPU ms", phase="read", figure="control CPU ms a page"),
    Column(
        title="all hosts back after a restart, s",
        phase="after the control plane's restart",
        figure="s until every host was connected",
    ),
)


@click.command()
@click.option("--up-to", type=int, default=SIZES[-1][0], show_default=True, help="Hosts at most.")
@click.option("--database", default="", metavar="URL", help="PostgreSQL, besides SQLite.")
@click.option("--seconds", type=float, default=20.0, show_default=True)
def scaling(up_to: int, database: str, seconds: float) -> None:
    """Measure, then rewrite the table."""
    reports = []
    for url in ("", database) if database else ("",):
        for hosts, servers in SIZES:
            if hosts <= up_to:
                reports.append(_measure(hosts, servers, url, seconds))
                PAGE.write_text(rewritten(PAGE.read_text(), table(reports)))
    click.echo(table(reports))


def _measure(hosts: int, servers: int, url: str, seconds: float) -> Report:
    load = Load(
        hosts=hosts, servers=servers, seed=7, profiles=PROFILES, database_url=url, seconds=seconds,
        burst=min(2000, hosts * 10),
    )  # fmt: skip
    click.echo(f"{hosts:,} hosts, {servers:,} servers")
    with Display() as display:
        report = uvloop.run(play(load, tell=display.tell))
    if report.wrong:
        raise click.ClickException("\n".join(report.wrong))
    return report


def table(reports: list[Report]) -> str:
    """Markdown: a row a size, then the machine and what set the limits."""
    head = ["hosts", "servers", "database", "control processes", *(c.title for c in COLUMNS)]
    head += ["idle SQL/s", "database, MiB"]
    lines = ["| " + " | ".join(head) + " |", "|---:|---:|---|" + "---:|" * (len(head) - 3)]
    lines += ["| " + " | ".join(_row(report)) + " |" for report in reports]
    lines += ["", "Measured on:", ""]
    lines += [f"- {r.hosts:,} hosts, {r.database}: {r.machine.line()}." for r in reports]
    lines += ["", "What set the limit when servers were created as fast as the API took them:", ""]
    lines += [f"- {r.hosts:,} hosts, {r.database}: {_phase(r, 'create').limit}" for r in reports]
    return "\n".join(lines)


def rewritten(page: str, new: str) -> str:
    """The page with `new` between its markers. ValueError when they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def _row(report: Report) -> list[str]:
    cells = [f"{report.hosts:,}", f"{report.servers:,}", report.database, "1"]
    cells += [number(_phase(report, c.phase).figures[c.figure]) for c in COLUMNS]
    idle = _phase(report, "idle")
    return [*cells, number(idle.sql_per_s), number(idle.database_mib)]


def _phase(report: Report, name: str) -> Phase:
    found = report.phase(name)
    assert found is not None, f"the run had no phase '{name}'"
    return found


if __name__ == "__main__":
    scaling(prog_name="python -m bench.scaling")
