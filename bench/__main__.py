"""`python -m bench [NAME…]`: run benchmarks, print what they found as tables.

Without a name all of them run, in an order that shares one running cloud between those that need one.
Needs root, as `cairn up` does.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import click
from rich.console import Console

from bench import (
    api,
    boot,
    cloud,
    demo,
    disk,
    fill,
    identity,
    idle,
    migrate,
    network,
    openstack,
    placements,
    scale,
    table,
)
from bench.cloud import Dev, Whole
from bench.table import Result

# The order matters: an idle minute comes before what leaves something behind, and OpenStack's work, which
# ends with 1,000 servers on fake hosts, before the requests, which need them.
NAMES = (
    "demo",
    "network",
    "disk",
    "migrate",
    "openstack",
    "api",
    "identity",
    "idle",
    "boot",
    "engines",
    "scale",
)


class _Clouds:
    """What benchmarks share, started when the first one asks for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def whole(self) -> Whole:
        return self._stack.enter_context(cloud.whole())

    @cached_property
    def fake(self) -> Dev:
        return self._stack.enter_context(cloud.dev(hosts=fill.hosts_for(api.SERVERS)))


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
    console = Console(width=None if sys.stdout.isatty() else 120)
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
    benchmarks: dict[str, Callable[[], list[Result]]] = {
        "demo": demo.run,
        "network": network.run,
        "disk": disk.run,
        "migrate": migrate.run,
        "openstack": lambda: openstack.on_fake_engines(clouds.fake),
        "api": lambda: api.run(clouds.fake),
        "identity": identity.run,
        "idle": lambda: idle.run(clouds.whole),
        "boot": lambda: boot.run(clouds.whole),
        "placements": placements.run,
        "scale": scale.run,
        "engines": lambda: openstack.on_real_engines(clouds.whole),
    }
    return benchmarks[name]()


if __name__ == "__main__":
    bench(prog_name="python -m bench")
