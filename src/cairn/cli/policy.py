"""`cairn policy`: who may do what, and whether a file that changes it is right."""

import json
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli.cloud import as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "show": ("cairn.cli.policy", "show", "Print the rules in force and where each comes from."),
    "check": ("cairn.cli.policy", "check", "Look for mistakes in a file before it is used."),
}


@click.command(cls=LazyCommands, table=COMMANDS)
def policy() -> None:
    """Who may do what: the rules of each service, and an operator's changes to them."""


@click.command()
@click.argument("service", required=False)
@click.option("--rule", help="This rule only; a part of its name will do.")
@click.option("--overrides", "changed", is_flag=True, help="Only what differs from the default.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@state_option
def show(
    service: str | None, rule: str | None, changed: bool, as_json: bool, state: Path | None
) -> None:
    """Print the rules in force: what each says, and which file and line says so."""
    settings = settings_file.load(settings_file.state_dir(state))
    asked = f"?service={service}" if service else ""
    rows = as_operator(settings).get("cairn", f"/policy{asked}")["rules"]
    rows = [row for row in rows if rule is None or rule in row["rule"]]
    rows = [row for row in rows if not changed or row["source"] != "default"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("No rule differs from the default." if changed else "There is no such rule.")
        return
    heading = ""
    for row in rows:
        if row["service"] != heading:
            heading = row["service"]
            click.secho(heading, bold=True)
        _print(row, in_full=rule is not None)


def _print(row: dict[str, Any], *, in_full: bool) -> None:
    click.echo(f'  "{row["rule"]}": {json.dumps(row["check"])}')
    if row["source"] != "default":
        click.echo(f"      from {row['source']}; by default {json.dumps(row['default'])}")
    if in_full:
        for path in row["routes"]:
            click.echo(f"      asked by {path}")
        if row["fields"]:
            click.echo(f"      may name %({')s, %('.join(row['fields'])})s")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--service", help="Whose rules they are [default: as the file is called].")
def check(file: Path, service: str | None) -> None:
    """Look for mistakes in FILE, without a running cloud. Ends with 1 if there are any."""
    from cairn.app import services_without_cloud  # late: it brings the whole control plane
    from cairn.http import overrides

    services = services_without_cloud()
    whose = overrides.service_named(service or file.stem, services)
    if whose is None:
        names = ", ".join(s.name for s in services)
        raise click.ClickException(f"which service is {file} for? Say --service, one of {names}")
    found = overrides.read(file, whose)
    for warning in found.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    for wrong in found.wrong:
        click.secho(wrong, fg="red", err=True)
    if found.wrong:
        raise SystemExit(1)
    click.echo(f"{file} is right: {len(found.rules)} rules of {whose.name}")
