"""The `cairn` command: its list of commands, and how their failures are told.

Help and completion must be instant, so the list is data and a command's module is imported when it is
called. A failure that was foreseen is printed as what happened, why, and where to look; no traceback.
"""

import importlib
import keyword
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cairn import __version__
from cairn.core.errors import CloudError

# name: (module, one line of help). The function in the module has the command's name
# (and an underscore if that is a word of Python's).
COMMANDS = {
    "up": ("cairn.cli.up", "Start the cloud on this machine; --demo boots a first server."),
    "down": ("cairn.cli.down", "Stop the cloud: guests too, unless --keep-guests."),
    "status": ("cairn.cli.status", "Show every process, host and engine, and what is wrong."),
    "host": ("cairn.cli.host", "Look at hosts and change them: health, zones, drain, fence."),
    "quota": ("cairn.cli.quota", "Show and set what projects may have, and what they use."),
    "token": ("cairn.cli.token", "Make tokens by which machines become members; list, revoke."),
    "audit": ("cairn.cli.audit", "Ask who did what, when, from where; export it."),
    "keys": ("cairn.cli.keys", "List the keys that sign and seal; make new ones."),
    "join": ("cairn.cli.join", "Make this machine a member of the cloud that made the TOKEN."),
    "leave": ("cairn.cli.leave", "Clean up after this host was removed from its cloud."),
    "policy": ("cairn.cli.policy", "Show who may do what; check a file that changes it."),
    "oidc": ("cairn.cli.oidc", "Say how OpenID providers know this cloud."),
    "doctor": ("cairn.cli.doctor", "Probe this machine; name the command that cures each finding."),
    "wipe": ("cairn.cli.down", "Stop the cloud and delete all that it holds."),
    "import": ("cairn.cli.import_", "Take over a Keystone's users and projects from its dump."),
    "install": ("cairn.cli.install", "Write systemd units, so that it starts with the machine."),
    "upgrade": ("cairn.cli.upgrade", "Bring what runs here to this release; --plan shows how."),
    "image": ("cairn.cli.image", "Build guest images."),
    "sim": ("cairn.cli.sim", "Play seeded histories of a cloud in virtual time."),
    "dev": ("cairn.cli.dev", "Run the cloud on fake hosts in one process, to work on it."),
    "check": ("cairn.cli.check", "Run format, lint, types, import table, tests, simulator."),
    "control": ("cairn.cli.serve", "Run the control plane in the foreground."),
    "agent": ("cairn.cli.serve", "Run this host's agent in the foreground."),
}


# name: (module, function in it, one line of help)
Table = Mapping[str, tuple[str, str, str]]


class LazyCommands(click.Group):
    """Commands by a table; each one's module is imported when the command is called."""

    def __init__(self, *words: Any, table: Table, **more: Any) -> None:
        super().__init__(*words, **more)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, function, _ = self._table[cmd_name]
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self._table:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in self._table.items()])


@click.command(
    cls=LazyCommands,
    table={
        name: (module, name + "_" * keyword.iskeyword(name), help_)
        for name, (module, help_) in COMMANDS.items()
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="cairn")
def cairn() -> None:
    """Cairn: one command, one machine, one cloud that speaks OpenStack's APIs."""


def state_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--state DIR`, which every command that touches an installation takes."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        default=None,
        metavar="DIR",
        help="State directory [default: $CAIRN_STATE or /var/lib/cairn]",
    )(command)


def main() -> None:
    """Run the command line; exit with 1 and a clear message when it fails as foreseen."""
    try:
        cairn(prog_name="cairn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("cairn: interrupted")
    except CloudError as error:
        click.secho(f"cairn: {error.message}", fg="red", err=True)
        if error.because:
            click.echo(f"  because: {error.because}", err=True)
        sys.exit(1)
    except PermissionError as error:
        click.secho(f"cairn: {error}; this needs root: try with sudo", fg="red", err=True)
        sys.exit(1)
