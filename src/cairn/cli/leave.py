"""`cairn leave`: clean up a host that was removed. Its agent starts this by itself when it is told."""

import os
from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.main import state_option
from cairn.cli.progress import Steps
from cairn.core.errors import CloudError
from cairn.host import leaving
from cairn.settings import Settings


@click.command()
@state_option
def leave(state: Path | None) -> None:
    """Clean up after this host was removed from its cloud."""
    finish(settings_file.load(settings_file.state_dir(state)))


def finish(settings: Settings) -> None:
    """End and delete all that Cairn has here, and say so."""
    if os.geteuid() != 0:
        raise CloudError("this needs root: it ends guests and removes interfaces")
    why = leaving.reason(settings)
    with Steps() as steps, steps.step("cleaning up this host") as step:
        leaving.leave(settings, step.tell)
    click.echo(f"{why} Nothing of Cairn is left but the cache, {settings.cache}.")
