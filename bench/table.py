"""What a benchmark says: rows of figures, shown as a table, Markdown or JSON.

A figure means little alone, so a row names what it is compared with and says the ratio; both sides are
measured in one run, except the figures of real OpenStack, which stand in openstack.py with their source.
"""

import datetime
import os
import platform
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table


class Result(Struct, frozen=True, kw_only=True):
    """One table. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


class Machine(Struct, frozen=True, kw_only=True):
    """Where and when the figures were taken, and how busy the machine was with other work."""

    when: str
    processor: str
    cores: int
    memory_gib: int
    kernel: str
    load_before: float

    def line(self) -> str:
        return (
            f"{self.when}, {self.cores} cores of {self.processor}, {self.memory_gib} GiB,"
            f" Linux {self.kernel}, load {self.load_before:.1f} when it began"
        )


def machine() -> Machine:
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return Machine(
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processor=models[0] if models else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        kernel=platform.release(),
        load_before=os.getloadavg()[0],
    )


def show(result: Result, console: Console) -> None:
    table = Table(title=result.title, title_justify="left")
    for number, column in enumerate(result.columns):
        table.add_column(column, justify="right" if number else "left")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}", style="dim")


def write(out: Path, results: list[Result], where: Machine) -> None:
    """Markdown, or JSON when the name says so."""
    if out.suffix == ".json":
        told = {"machine": where, "results": results}
        out.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
        return
    parts = [where.line(), ""]
    for result in results:
        parts += [f"### {result.title}", "", _line(result.columns), _rule(result.columns)]
        parts += [_line(row) for row in result.rows]
        parts += ["", *(f"- {note}" for note in result.notes), ""]
    out.write_text("\n".join(parts))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(cells: tuple[str, ...]) -> str:
    return "|---|" + "---:|" * (len(cells) - 1)


def ratio(ours: float, theirs: float) -> str:
    """How many times the other side's figure ours is."""
    return f"{ours / theirs:.2f} ×" if theirs else "-"
