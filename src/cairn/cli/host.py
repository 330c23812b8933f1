"""`cairn host`: the operator's commands about hosts.

The table is data as in `cli/main.py`; each command's module is imported when it is called.
`cloud.as_operator` is their way to the API.
"""

import click

from cairn.cli.main import LazyCommands, Table

# name: (module, function in it, one line of help)
COMMANDS: Table = {
    "list": ("cairn.cli.host_show", "list_hosts", "List the hosts: state, health, guests, room."),
    "show": ("cairn.cli.host_show", "show", "Show one host in full."),
    "explain": ("cairn.cli.host_show", "explain", "Say why a host is as it is, and what to do."),
    "drain": ("cairn.cli.host_drain", "drain", "Move every guest away; --plan says where to."),
    "undrain": ("cairn.cli.host_drain", "undrain", "Let guests come again, and those here stay."),
    "fence": ("cairn.cli.host_loss", "fence", "Have a silent host fenced now, or say that it is."),
    "recover": ("cairn.cli.host_loss", "recover", "Say that lost hosts are lost: go on with them."),
    "set": ("cairn.cli.host_set", "set_host", "Change a host's zone, rack, roles, labels, power."),
    "remove": ("cairn.cli.host_remove", "remove", "Take a host out of the cloud; it cleans up."),
}


@click.command(cls=LazyCommands, table=COMMANDS)
def host() -> None:
    """Look at hosts and change them. NAME is a host's name or id everywhere."""
