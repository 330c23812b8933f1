"""`cairn control` and `cairn agent`: the two processes of the cloud, in the foreground.

`cairn control` has commands of its own, which work with the control plane's state while it is at rest
(cli/control.py).
"""

from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.main import LazyCommands, Table, state_option

# name: (module, function in it, one line of help)
CONTROL_COMMANDS: Table = {
    "migrate": ("cairn.cli.control", "migrate", "Move the database from its file to PostgreSQL."),
    "export": ("cairn.cli.control", "export", "Write what a further control machine needs."),
    "import": ("cairn.cli.control", "import_", "Make this a further control machine."),
}
LOCK_S_MAX = 3.0  # for a process that is just ending


@click.command(
    cls=LazyCommands, table=CONTROL_COMMANDS, invoke_without_command=True, no_args_is_help=False
)
@state_option
@click.pass_context
def control(context: click.Context, state: Path | None) -> None:
    """Run the control plane: API, reconcilers, node port."""
    if context.invoked_subcommand is not None:
        return
    from cairn.app import run_control
    from cairn.host import control_lock
    from cairn.host.engines import ensure_novnc

    folder = settings_file.state_dir(state)
    lock = settings_file.load(folder).control_lock_file
    with control_lock.held(lock, as_=control_lock.SERVES, wait_s=LOCK_S_MAX):
        # Read again: whoever held the lock may have moved the database.
        settings = settings_file.load(folder)
        run_control(settings, pages=ensure_novnc(settings.cache))


@click.command()
@state_option
def agent(state: Path | None) -> None:
    """Run this host's agent: guests, disks, networks."""
    from cairn.agent.main import run_agent
    from cairn.agent.membership import start_leaving
    from cairn.host.engines import ensure_ovs

    settings = settings_file.load(settings_file.state_dir(state))
    if settings.removal_file.exists() and not settings.control:
        start_leaving(settings)  # It was cut off: nothing that lived here may start again.
        return
    run_agent(settings, engine_dir=ensure_ovs(settings.cache))
