"""`cairn host`: the operator's commands about hosts.

The table is data as in `cli/main.py`; each command's module is imported when it is called.
`cloud.as_operator` is their way to the API.
"""

import click

from cairn.cli.main import LazyCommands, Table

# name: (module, function in it, one line of help)
COMMANDS: Table = {}


@click.command(cls=LazyCommands, table=COMMANDS)
def host() -> None:
    """Look at hosts and change them. NAME is a host's name or id everywhere."""
