"""`cairn host list`, `show` and `explain`: what the control plane knows of its hosts."""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import click

from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, as_operator
from cairn.cli.main import state_option

COLOURS = {"ok": "green", "warning": "yellow", "critical": "red"}
STATE_COLOURS = {"up": "green", "joining": "yellow", "suspect": "yellow"}


def json_option(command: click.decorators.FC) -> click.decorators.FC:
    return click.option("--json", "as_json", is_flag=True, help="For machines.")(command)


@click.command("list")
@click.option("--zone", help="Only hosts of this zone.")
@click.option("--rack", help="Only hosts of this rack.")
@click.option("--role", "roles", multiple=True, help="Only hosts with this role; may be repeated.")
@click.option("--is", "life", metavar="STATE", help="Only hosts in this state: up, suspect, ….")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only with this label.")
@json_option
@state_option
def list_hosts(
    zone: str | None,
    rack: str | None,
    roles: tuple[str, ...],
    life: str | None,
    labels: tuple[str, ...],
    as_json: bool,
    state: Path | None,
) -> None:
    """List the hosts: state, health, guests and room."""
    filters = [("zone", zone), ("rack", rack), ("state", life)]
    pairs = [(k, v) for k, v in filters if v is not None]
    pairs += [("role", r) for r in roles] + [("label", one) for one in labels]
    found = list(every_host(operator_at(state), pairs))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no hosts")
        return
    columns = (
        "NAME",
        "STATE",
        "HEALTH",
        "ZONE",
        "RACK",
        "ROLES",
        "GUESTS",
        "CPUS",
        "MEMORY",
        "DISK",
    )
    _table(columns, [_row(host) for host in found])


def operator_at(folder: Path | None) -> Cloud:
    """The operator's API of the installation in `folder`."""
    return as_operator(settings_file.load(settings_file.state_dir(folder)))


def every_host(cloud: Cloud, filters: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """All pages of the list."""
    pairs = filters
    while True:
        page = cloud.get("cairn", f"/hosts?{urlencode(pairs)}" if pairs else "/hosts")
        yield from page["hosts"]
        if "next" not in page:
            return
        pairs = parse_qsl(urlsplit(page["next"]).query)


def _row(host: dict[str, Any]) -> tuple[str, ...]:
    load = host["load"]
    state = host["state"]
    closed = "draining" if host["draining"] else "" if host["enabled"] else "disabled"
    shown = f"{state}, {closed}" if closed else state
    return (
        host["name"],
        click.style(shown, fg=STATE_COLOURS.get(state, "red")),
        click.style(host["health"], fg=COLOURS.get(host["health"], "red")),
        host["zone"],
        host["rack"] or "-",
        ",".join(host["roles"]),
        str(load["servers"]),
        f"{load['vcpus_taken']}/{load['vcpus']}",
        f"{_gib(load['memory_mib_taken'])}/{_gib(load['memory_mib'])} GiB",
        f"{load['disk_gib_taken']}/{load['disk_gib']} GiB",
    )


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}".removesuffix(".0")


@click.command()
@click.argument("name")
@json_option
@state_option
def show(name: str, as_json: bool, state: Path | None) -> None:
    """Show one host in full. NAME is its name or id."""
    host = get_host(operator_at(state), name)
    if as_json:
        click.echo(json.dumps(host, indent=2))
        return
    facts, load, power = host["facts"] or {}, host["load"], host["power"]
    behind = host["spec_number"] - host["reported_spec_number"]
    rows = [
        ("name", host["name"]),
        ("id", host["id"]),
        ("state", f"{host['state']} for {ago(host['state_since'])}"),
        *([("what is done", host["loss"])] if host["loss"] else []),
        ("takes new guests", "no" if host["explained"]["obstacles"] else "yes"),
        ("zone", host["zone"]),
        ("rack", host["rack"] or "-"),
        ("roles", ", ".join(host["roles"])),
        ("labels", ", ".join(f"{k}={v}" for k, v in host["labels"].items()) or "-"),
        ("aggregates", ", ".join(load["aggregates"]) or "-"),
        ("servers", f"{load['servers']}, with {load['volumes']} volumes on its disks"),
        ("virtual CPUs", f"{load['vcpus_taken']} of {load['vcpus']} promised"),
        ("memory", f"{_gib(load['memory_mib_taken'])} of {_gib(load['memory_mib'])} GiB promised"),
        ("disk", f"{load['disk_gib_taken']} of {load['disk_gib']} GiB promised"),
        ("processor", facts.get("cpu_model") or "-"),
        ("address", facts.get("address") or "-"),
        ("power", f"{power['driver']} at {power['address']}" if power else "no address known"),
        ("agent", f"{host['agent_version'] or '-'}, wire version {host['wire_version'] or '-'}"),
        ("on its way to it", f"{behind} changes" if behind else "nothing"),
    ]
    for key, value in rows:
        click.echo(f"{key:17} {value}")
    click.echo()
    _table(
        ("HEALTH", "LEVEL", "FOUND", "MEANING"),
        [
            (h["name"], click.style(h["level"], fg=COLOURS.get(h["level"], "red")), h["found"],
             h["meaning"] or "-")
            for h in host["health_found"]
        ],
    )  # fmt: skip


@click.command()
@click.argument("name")
@json_option
@state_option
def explain(name: str, as_json: bool, state: Path | None) -> None:
    """Say why a host has its roles, why it gets new guests or not, what its state means, what to do."""
    host = get_host(operator_at(state), name)
    explained = host["explained"]
    if as_json:
        click.echo(
            json.dumps({"name": host["name"], "state": host["state"], **explained}, indent=2)
        )
        return
    since = ago(host["state_since"])
    click.secho(f"{host['name']} is {host['state']} for {since}. ", bold=True, nl=False)
    click.echo(explained["state"])
    if host["loss"]:
        click.echo(f"It is {host['loss']}.")
    click.secho("\nRoles", bold=True)
    for role in explained["roles"]:
        click.echo(f"  {role['role']:9} {role['does']}: {role['why']}")
        click.echo(f"  {'':9} {role['found']}")
    click.secho("\nNew guests", bold=True)
    for obstacle in explained["obstacles"]:
        click.echo(f"  are not placed here: {obstacle}")
    if not explained["obstacles"]:
        click.echo("  may be placed here")
    click.secho("\nHealth", bold=True)
    for seen in host["health_found"]:
        level = click.style(f"{seen['level']:8}", fg=COLOURS.get(seen["level"], "red"))
        click.echo(f"  {level} {seen['name']}: {seen['found']}")
        if seen["meaning"]:
            click.echo(f"  {'':8} {seen['meaning']}")
    click.secho("\nWhat to do", bold=True)
    for step in explained["advice"] or ["Nothing."]:
        click.echo(f"  {step}")


def get_host(cloud: Cloud, name: str) -> dict[str, Any]:
    host: dict[str, Any] = cloud.get("cairn", f"/hosts/{quote(name, safe='')}")["host"]
    return host


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text.from_ansi(cell) for cell in row))
    # Piped into another program, a line must not be broken.
    width = None if sys.stdout.isatty() else 4096
    Console(width=width, highlight=False).print(table)


def ago(moment: str) -> str:
    """How long ago that was, in the largest unit that says enough."""
    now = datetime.datetime.now(datetime.UTC)
    seconds = max(0, int((now - datetime.datetime.fromisoformat(moment)).total_seconds()))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
