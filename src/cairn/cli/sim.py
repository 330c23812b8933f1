"""`cairn sim`: a simulated cloud. In virtual time for correctness, with --hosts in real time for measure.

Without --hosts it plays seeded histories of a small cloud; a failing one prints how to see it again. With
--hosts it starts a real control plane and that many real agents over fake engines, and measures them.
"""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cairn.core.errors import CloudError

if TYPE_CHECKING:
    from cairn.sim.story import Outcome

PROFILES = ("steady", "boot-storm", "reconnect-storm", "host-failures", "joining")


@click.command()
@click.option("--seed", type=int, default=None, help="Play this one history, with its log.")
@click.option(
    "--seeds", type=int, default=20, show_default=True, help="How many to play otherwise."
)
@click.option("--first", type=int, default=1, show_default=True, help="The first of them.")
@click.option("--nodes", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option("--wishes", type=click.IntRange(1, 100_000), default=60, show_default=True)
@click.option("--losses", is_flag=True, help="Histories in which hosts are lost, too.")
@click.option("--rough", is_flag=True, help="Also full disks, slow hosts, jumping clocks.")
@click.option("--hosts", type=click.IntRange(1, 50_000), help="Measure a cloud of so many hosts.")
@click.option("--servers", type=click.IntRange(0), default=0, help="That it holds already.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice([*PROFILES, "all"]),
    help="What is done to it; may be repeated. [default: steady]",
)
@click.option(
    "--database", default="", metavar="URL", help="A PostgreSQL database; all in it goes."
)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Also as JSON.")
@click.option("--burst", type=click.IntRange(0), default=0, help="Servers in a boot storm.")
@click.option("--rate", type=click.FloatRange(0.1), default=20.0, help="Servers a second, steady.")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, help="Of each steady phase.")
@click.option("--batch", type=click.IntRange(1, 1000), default=1, help="Servers a request.")
@click.option("--connections", type=click.IntRange(1, 500), default=16, help="Of clients.")
@click.option("--with-port", is_flag=True, help="New servers get a port each.")
@click.option("--latency", type=click.FloatRange(0), default=0.0, help="Of engines, in seconds.")
@click.option("--agent-processes", type=click.IntRange(0), default=0)
def sim(
    seed: int | None,
    seeds: int,
    first: int,
    nodes: int,
    wishes: int,
    losses: bool,
    rough: bool,
    hosts: int | None,
    servers: int,
    profiles: tuple[str, ...],
    database: str,
    report: Path | None,
    burst: int,
    rate: float,
    seconds: float,
    batch: int,
    connections: int,
    with_port: bool,
    latency: float,
    agent_processes: int,
) -> None:
    """Play the real control plane and agents over fake engines; with --hosts, measure them."""
    if hosts is None:
        kind = _kind(losses=losses, rough=rough)
        _histories(kind, seed, seeds=seeds, first=first, nodes=nodes, wishes=wishes)
        return
    from cairn.sim.load.show import Load

    chosen = PROFILES if "all" in profiles else tuple(dict.fromkeys(profiles)) or ("steady",)
    load = Load(
        hosts=hosts, servers=servers, seed=seed if seed is not None else 1, profiles=chosen,
        database_url=database, burst=burst, rate=rate, seconds=seconds, batch=batch,
        connections=connections, with_port=with_port, latency_s=latency,
        agent_processes=agent_processes,
    )  # fmt: skip
    _measure(load, report)


def _measure(load: "object", file: Path | None) -> None:
    import msgspec
    import uvloop
    from rich.console import Console

    from cairn.sim.load.display import Display
    from cairn.sim.load.report import show
    from cairn.sim.load.run import play
    from cairn.sim.load.show import Load

    assert isinstance(load, Load)
    _be_silent()
    with Display() as display:
        found = uvloop.run(play(load, tell=display.tell))
    show(found, Console())
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if found.wrong:
        raise CloudError(f"{len(found.wrong)} promises were not kept; see above.")


def _kind(*, losses: bool, rough: bool) -> "Callable[..., Outcome]":
    """What plays one history."""
    from cairn.sim import losses as with_losses
    from cairn.sim import story

    if losses and rough:
        raise CloudError("Choose --losses or --rough.")
    if losses:
        return with_losses.play
    return functools.partial(story.play, rough=rough)


def _histories(
    kind: "Callable[..., Outcome]",
    seed: int | None,
    *,
    seeds: int,
    first: int,
    nodes: int,
    wishes: int,
) -> None:
    chosen = [seed] if seed is not None else list(range(first, first + seeds))
    if seed is None:
        _be_silent()
    failed = [s for s in chosen if not _play(kind, s, nodes=nodes, wishes=wishes)]
    if failed:
        raise CloudError(f"{len(failed)} of {len(chosen)} histories broke: {failed}")
    click.secho(f"{len(chosen)} histories, every invariant held.", fg="green")


def _play(kind: "Callable[..., Outcome]", seed: int, *, nodes: int, wishes: int) -> bool:
    from cairn.sim.world import Broken

    began_s = time.monotonic()
    try:
        outcome = kind(seed=seed, nodes=nodes, wishes=wishes)
    except Broken as error:
        click.secho(str(error), fg="red")
        return False
    click.echo(
        f"seed {seed}: {outcome.wishes} wishes, {outcome.servers} servers, {outcome.blows} blows,"
        f" {outcome.virtual_s:.0f} s of the cloud's life in {time.monotonic() - began_s:.1f} s"
    )
    return True


def _be_silent() -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
