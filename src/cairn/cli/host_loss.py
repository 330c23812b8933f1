"""`cairn host fence` and `cairn host recover`: a person's word about hosts that are gone."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cairn.cli.host_show import operator_at
from cairn.cli.main import state_option


@click.command()
@click.argument("name")
@click.option(
    "--by-hand", is_flag=True, help="You made sure yourself that it is off, and stays so."
)
@state_option
def fence(name: str, by_hand: bool, state: Path | None) -> None:
    """Have a silent host fenced now: its power cut, or it shut out of the shared pool.

    Servers that may start elsewhere follow. With --by-hand nothing is switched: your word is the proof,
    and two guests may write to one disk if it is wrong."""
    path = f"/hosts/{quote(name, safe='')}/fence"
    _tell(operator_at(state).post("cairn", path, {"fence": {"by_hand": by_hand}})["host"])


@click.command()
@click.argument("name", required=False)
@click.option("--zone", help="Every held host of this zone instead.")
@state_option
def recover(name: str | None, zone: str | None, state: Path | None) -> None:
    """Say that it is the host, and not the control plane: what was held goes on."""
    if (name is None) == (zone is None):
        raise click.UsageError("Give a host's NAME or --zone ZONE.")
    cloud = operator_at(state)
    if zone is not None:
        done = cloud.post("cairn", f"/zones/{quote(zone, safe='')}/recover", {})
        click.echo(f"zone {zone}: {done['released']} holds released")
    elif name is not None:
        _tell(cloud.post("cairn", f"/hosts/{quote(name, safe='')}/recover", {})["host"])


def _tell(host: dict[str, Any]) -> None:
    click.echo(f"{host['name']}: {host['loss'] or host['state']}")
