"""`python -m bench [NAME…]`: run benchmarks, print what they found as tables.

Without a name all of them run, in an order that shares one running cloud between those that need one.
Needs root, as `cairn up` does.
"""

import os
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import click
from rich.console import Console

from bench import api, boot, cloud, demo, disk, idle, network, openstack, table
from bench.cloud import Whole
from bench.table import Result

# The order matters: the first four need no running cloud, and the others share one. The idle minute comes
# before those that leave something behind.
IN_A_CLOUD = {"idle": idle.run, "boot": boot.run}
ALONE = {"demo": demo.run, "api": api.run, "network": network.run, "disk": disk.run}
NAMES = (*ALONE, *IN_A_CLOUD, "openstack")


class _Clouds:
    """The shared cloud, started when the first benchmark asks for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def whole(self) -> Whole:
        return self._stack.enter_context(cloud.whole())


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the tables: Markdown, or JSON when it ends in .json.",
)
def bench(names: tuple[str, ...], out: Path | None) -> None:
    """Measure Cairn against its limits, and against real OpenStack's figures."""
    if os.geteuid() != 0:
        raise click.ClickException("the benchmarks start guests and make interfaces: run as root")
    console = Console()
    where = table.machine()
    console.print(where.line())
    results: list[Result] = []
    with ExitStack() as stack:
        clouds = _Clouds(stack)
        for name in [n for n in NAMES if not names or n in names]:
            began = time.monotonic()
            for result in _run(name, clouds):
                table.show(result, console)
                results.append(result)
                if out is not None:
                    table.write(out, results, where)  # A later failure must not cost these.
            console.print(f"({name}: {time.monotonic() - began:.0f} s)\n", style="dim")


def _run(name: str, clouds: _Clouds) -> list[Result]:
    if name in ALONE:
        return ALONE[name]()
    if name in IN_A_CLOUD:
        return IN_A_CLOUD[name](clouds.whole)
    return [*openstack.on_fake_engines(), *openstack.on_real_engines(clouds.whole)]


if __name__ == "__main__":
    bench(prog_name="python -m bench")
