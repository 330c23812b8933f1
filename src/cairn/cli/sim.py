"""`cairn sim`: play seeded histories of a cloud in virtual time; a failing one prints how to see it again."""

import logging
import time

import click

from cairn.core.errors import CloudError


@click.command()
@click.option("--seed", type=int, default=None, help="Play this one history, with its log.")
@click.option(
    "--seeds", type=int, default=20, show_default=True, help="How many to play otherwise."
)
@click.option("--first", type=int, default=1, show_default=True, help="The first of them.")
@click.option("--nodes", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option("--wishes", type=click.IntRange(1, 100_000), default=60, show_default=True)
def sim(seed: int | None, seeds: int, first: int, nodes: int, wishes: int) -> None:
    """Play the real control plane and agents over fake engines, with crashes, cuts and late reports."""
    chosen = [seed] if seed is not None else list(range(first, first + seeds))
    if seed is None:
        _be_silent()
    failed = [s for s in chosen if not _play(s, nodes=nodes, wishes=wishes)]
    if failed:
        raise CloudError(f"{len(failed)} of {len(chosen)} histories broke: {failed}")
    click.secho(f"{len(chosen)} histories, every invariant held.", fg="green")


def _play(seed: int, *, nodes: int, wishes: int) -> bool:
    from cairn.sim.story import play
    from cairn.sim.world import Broken

    began_s = time.monotonic()
    try:
        outcome = play(seed=seed, nodes=nodes, wishes=wishes)
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
