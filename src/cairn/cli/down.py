"""`cairn down` and `cairn wipe`: end the cloud; with its guests, with all that it holds."""

import os
from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.main import state_option
from cairn.cli.progress import Steps
from cairn.core.errors import CloudError
from cairn.host import engines, teardown
from cairn.settings import Settings


@click.command()
@click.option("--keep-guests", is_flag=True, help="Leave guests and their network running.")
@state_option
def down(keep_guests: bool, state: Path | None) -> None:
    """Stop the cloud on this machine; what it holds stays on the disk."""
    settings = settings_file.load(settings_file.state_dir(state))
    _stop(settings, keep_guests=keep_guests)
    if keep_guests:
        click.echo("Guests and their network run on; `cairn up` takes them over again.")
    else:
        click.echo("Nothing of Cairn runs any more; `cairn up` brings everything back.")


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def wipe(yes: bool, state: Path | None) -> None:
    """Stop the cloud and delete all servers, volumes, images and credentials."""
    settings = settings_file.load(settings_file.state_dir(state))
    if not yes:
        click.confirm(f"Delete everything in {settings.state}?", abort=True)
    _stop(settings, keep_guests=False)
    teardown.wipe(settings)
    if not settings.control:
        click.echo(
            "Its cloud does not know that this host is gone: `cairn host remove"
            f" {settings.effective_host_name} --gone` there, once it is lost."
        )
    click.echo(
        f"{settings.state} is gone. Engines and images to build from are in {settings.cache}."
    )


def _stop(settings: Settings, *, keep_guests: bool) -> None:
    if os.geteuid() != 0:
        raise CloudError("this needs root: it ends guests and removes interfaces")
    with Steps() as steps:
        with steps.step("ending control plane and agent"):
            teardown.stop(settings)
        if not keep_guests:
            with steps.step("ending guests and network"):
                teardown.remove(settings, engines.present(settings.cache))
