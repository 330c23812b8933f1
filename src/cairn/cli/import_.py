"""`cairn import`: taking over what another cloud's services know."""

import click

from cairn.cli.main import LazyCommands, Table

# name: (module, function in it, one line of help)
COMMANDS: Table = {
    "keystone": (
        "cairn.cli.import_keystone",
        "keystone",
        "Take over users, projects, roles from a Keystone's dump.",
    ),
}


@click.command("import", cls=LazyCommands, table=COMMANDS)
def import_() -> None:
    """Take over what another cloud knows, from a dump of its database."""
