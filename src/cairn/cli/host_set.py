"""`cairn host set`: what an operator may choose of a host."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cairn.cli.host_show import operator_at
from cairn.cli.main import state_option
from cairn.core.errors import Invalid


@click.command("set")
@click.argument("name")
@click.option("--zone", help="Move it to this zone; it must be empty.")
@click.option("--rack", help="The rack it stands in; '' forgets it.")
@click.option("--role", "roles", multiple=True, help="All its roles: one option for each.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Add or change a label."
)
@click.option("--unlabel", "gone", multiple=True, metavar="KEY", help="Take a label away.")
@click.option("--power-driver", help="How its power is switched: fake, redfish or ipmi.")
@click.option("--power-address", help="Where: the address of its management controller.")
@click.option("--power-user", default="", help="Who signs in there.")
@click.option(
    "--power-password-file", type=click.File(), help="With which password; '-' asks stdin."
)
@click.option("--no-power", is_flag=True, help="Forget where its power is switched.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether new guests come to it.")
@click.option("--reason", help="Why it is disabled.")
@state_option
def set_host(name: str, state: Path | None, **said: Any) -> None:
    """Change a host's zone, rack, roles, labels, power address, or whether it takes new guests."""
    changes = _changes(**said)
    if not changes:
        raise Invalid("Nothing to change was given.", because="see `cairn host set --help`")
    path = f"/hosts/{quote(name, safe='')}"
    host = operator_at(state).patch("cairn", path, {"host": changes})["host"]
    shown = {
        "zone": host["zone"],
        "rack": host["rack"] or "-",
        "roles": ",".join(host["roles"]),
        "labels": ",".join(f"{k}={v}" for k, v in host["labels"].items()) or "-",
        "power": host["power"]["address"] if host["power"] else "-",
        "enabled": "yes" if host["enabled"] else f"no ({host['disabled_reason'] or '-'})",
    }
    click.echo(f"{host['name']}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))


def _changes(
    *,
    zone: str | None,
    rack: str | None,
    roles: tuple[str, ...],
    labels: tuple[str, ...],
    gone: tuple[str, ...],
    power_driver: str | None,
    power_address: str | None,
    power_user: str,
    power_password_file: Any,
    no_power: bool,
    enabled: bool | None,
    reason: str | None,
) -> dict[str, Any]:
    pairs = [("zone", zone), ("rack", rack), ("enabled", enabled), ("disabled_reason", reason)]
    changes: dict[str, Any] = {key: value for key, value in pairs if value is not None}
    if roles:
        changes["roles"] = roles
    if labels or gone:
        changes["labels"] = dict.fromkeys(gone) | dict(_pair(label) for label in labels)
    if no_power:
        changes["power"] = None
    elif power_driver is not None or power_address is not None:
        password = power_password_file.read().strip() if power_password_file else ""
        changes["power"] = {
            "driver": power_driver or "",
            "address": power_address or "",
            "user": power_user,
            "password": password,
        }
    return changes


def _pair(label: str) -> tuple[str, str]:
    key, sign, value = label.partition("=")
    if not sign:
        raise click.BadParameter(f"'{label}' must be written KEY=VALUE.", param_hint="--label")
    return key, value
