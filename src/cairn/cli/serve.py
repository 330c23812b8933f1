"""`cairn control` and `cairn agent`: the two processes of the cloud, in the foreground."""

from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.main import state_option


@click.command()
@state_option
def control(state: Path | None) -> None:
    """Run the control plane: API, reconcilers, node port."""
    from cairn.app import run_control
    from cairn.host.engines import ensure_novnc

    settings = settings_file.load(settings_file.state_dir(state))
    run_control(settings, pages=ensure_novnc(settings.cache))


@click.command()
@state_option
def agent(state: Path | None) -> None:
    """Run this host's agent: guests, disks, networks."""
    from cairn.agent.main import run_agent
    from cairn.host.engines import ensure_ovs

    settings = settings_file.load(settings_file.state_dir(state))
    run_agent(settings, engine_dir=ensure_ovs(settings.cache))
