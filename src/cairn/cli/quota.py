"""`cairn quota`: what a project may have and has, of everything, in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "show": ("cairn.cli.quota", "show", "Show a project's limits and what it uses of them."),
    "set": ("cairn.cli.quota", "set_limits", "Change a project's limits: NAME=VALUE."),
    "defaults": ("cairn.cli.quota", "defaults", "Show or change what every project may have."),
}
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


@click.command(cls=LazyCommands, table=COMMANDS)
def quota() -> None:
    """Limits of projects, of every service. PROJECT is a project's name or id everywhere."""


class Assignment(click.ParamType):  # type: ignore[type-arg]
    """`instances=20`, `ram=unlimited`, `volumes=default`."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not name or not sign:
            self.fail(f"'{value}' is not NAME=VALUE", param, ctx)
        if text == "default":
            return name, None
        if text in ("unlimited", "-1"):
            return name, -1
        if not text.isdecimal() or not text.isascii() or len(text) > 10:
            self.fail(f"'{text}' is no number, nor 'unlimited' or 'default'", param, ctx)
        return name, int(text)


@click.command()
@click.argument("project", metavar="PROJECT")
@_json_option
@state_option
def show(project: str, as_json: bool, state: Path | None) -> None:
    """Show a project's limits and what it uses of them."""
    _print_project(_operator(state).get("cairn", _path(project)), as_json)


@click.command("set")
@click.argument("project", metavar="PROJECT")
@click.argument("limits", metavar="NAME=VALUE...", nargs=-1, required=True, type=Assignment())
@_json_option
@state_option
def set_limits(
    project: str, limits: Sequence[tuple[str, int | None]], as_json: bool, state: Path | None
) -> None:
    """Change a project's limits. VALUE is a number, `unlimited`, or `default` to go back to it."""
    body = {"quotas": dict(limits)}
    _print_project(_operator(state).put("cairn", _path(project), body), as_json)


@click.command()
@click.argument("limits", metavar="[NAME=VALUE...]", nargs=-1, type=Assignment())
@_json_option
@state_option
def defaults(limits: Sequence[tuple[str, int | None]], as_json: bool, state: Path | None) -> None:
    """Show what every project may have that has no limit of its own, or change it.

    VALUE is a number, `unlimited`, or `default` to go back to the built-in one.
    """
    operator = _operator(state)
    if limits:
        found = operator.put("cairn", "/quotas", {"quotas": dict(limits)})
    else:
        found = operator.get("cairn", "/quotas")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (
            one["service"],
            one["name"],
            _amount(one["default"], one["unit"]),
            "" if one["default"] == one["built_in"] else _amount(one["built_in"], one["unit"]),
        )
        for one in found["quotas"]
    ]
    _print_table(("SERVICE", "LIMIT", "DEFAULT", "BUILT IN"), rows)


def _print_project(found: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    project = found["project"]
    click.echo(f"project {project['name']} ({project['id']})")
    rows = [
        (
            one["service"],
            one["name"],
            "-" if one["used"] is None else _amount(one["used"], one["unit"]),
            _amount(one["limit"], one["unit"]),
            "own" if one["is_own"] else "",
            "full" if _is_full(one) else "",
        )
        for one in found["quotas"]
    ]
    _print_table(("SERVICE", "LIMIT", "USED", "OF", "", ""), rows)


def _is_full(one: dict[str, Any]) -> bool:
    return one["used"] is not None and 0 <= one["limit"] <= one["used"]


def _amount(value: int, unit: str) -> str:
    if value < 0:
        return "unlimited"
    return f"{value} {unit}" if unit else str(value)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _path(project: str) -> str:
    return f"/quotas/{quote(project, safe='')}"


def _operator(state: Path | None) -> Cloud:
    return as_operator(settings_file.load(settings_file.state_dir(state)))
