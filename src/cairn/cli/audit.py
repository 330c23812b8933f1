"""`cairn audit`: who did what to which thing, when, from where, and what came of it."""

import datetime
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "list": ("cairn.cli.audit", "list_events", "List what was done, the newest last."),
    "export": ("cairn.cli.audit", "export", "Write all of it, a JSON object a line."),
}
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
PAGE = 1000
COLOURS = {"failure": "yellow", "denied": "red"}


class Moment(click.ParamType):  # type: ignore[type-arg]
    """`1h` (ago), or a time as 2026-01-31T12:00."""

    name = "moment"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        now = datetime.datetime.now(datetime.UTC)
        try:
            if (ago := re.fullmatch(r"(\d{1,9})([a-z]+)", value)) and ago[2] in UNITS:
                return now - datetime.timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
            return datetime.datetime.fromisoformat(value).astimezone(datetime.UTC)
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is no time: write 90min, 7d or 2026-01-31T12:00", param, ctx)


def filters(command: click.decorators.FC) -> click.decorators.FC:
    """What both commands can be asked."""
    for option in reversed(
        (
            click.option("--since", type=Moment(), help="As 90min (ago) or 2026-01-31T12:00."),
            click.option("--until", type=Moment(), help="As --since."),
            click.option("--user", metavar="ID", help="Who did it."),
            click.option("--project", metavar="ID", help="Whose things."),
            click.option("--domain", metavar="ID", help="Whose things."),
            click.option("--target", metavar="ID", help="Which thing."),
            click.option("--target-type", metavar="TYPE", help="As compute/server."),
            click.option("--service", metavar="TYPE", help="As compute or identity."),
            click.option("--action", help="As create, authenticate or start."),
            click.option(
                "--outcome", type=click.Choice(["success", "failure", "denied", "pending"])
            ),
            click.option("--request-id", metavar="ID", help="What a reply's header said."),
            click.option(
                "--format",
                "form",
                type=click.Choice(["json", "cadf"]),
                default="json",
                show_default=True,
                help="Cairn's own fields, or CADF event records.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command(cls=LazyCommands, table=COMMANDS)
def audit() -> None:
    """The trail of every change that was asked of any service, and of every sign-in."""


@click.command("list")
@filters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@state_option
def list_events(limit: int, as_json: bool, state: Path | None, **asked: Any) -> None:
    """List the last events that fit, the newest last."""
    found = list(_events(_operator(state), _pairs(asked), limit))[::-1]
    if as_json or asked["form"] == "cadf":
        click.echo(json.dumps(found, indent=2))
        return
    for event in found:
        click.secho(_line(event), fg=COLOURS.get(event["outcome"]))
    if not found:
        click.echo("Nothing of that kind was asked for.", err=True)


@click.command()
@filters
@click.option("--output", type=click.Path(path_type=Path), help="Where to [default: the terminal].")
@state_option
def export(output: Path | None, state: Path | None, **asked: Any) -> None:
    """Write every event that fits, the oldest first, a JSON object a line."""
    operator = _operator(state)
    operator.get("cairn", "/audit", limit="1")
    chunks = operator.download("cairn", "/audit/export", **_pairs(asked))
    if output is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with output.open("wb") as file:
        file.writelines(chunks)


def _operator(state: Path | None) -> Cloud:
    return as_operator(settings_file.load(settings_file.state_dir(state)))


def _pairs(asked: dict[str, Any]) -> dict[str, str]:
    asked = {**asked, "format": asked["form"]}
    del asked["form"]
    return {
        key: value.isoformat() if isinstance(value, datetime.datetime) else value
        for key, value in asked.items()
        if value is not None
    }


def _events(operator: Cloud, pairs: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    while limit > 0:
        told = operator.get("cairn", "/audit", **pairs, limit=str(min(limit, PAGE)))
        yield from told["events"]
        limit -= len(told["events"])
        if told["next"] is None:
            return
        pairs = {**pairs, "marker": told["next"]}


def _line(event: dict[str, Any]) -> str:
    moment = datetime.datetime.fromisoformat(event["at"]).astimezone(datetime.UTC)
    who = event["user_id"] or event["details"].get("user_name") or "-"
    thing = event["target_name"] or event["target_id"] or "-"
    also = ""
    if event["target_type"] == "identity/role_assignment":
        also = "  " + " ".join(f"{key}={value}" for key, value in event["details"].items())
    why = f"  {event['reason']}" if event["reason"] else ""
    return (
        f"{moment:%Y-%m-%d %H:%M:%S}  {event['outcome']:7}  {event['status']}  {event['action']:12}"
        f"  {event['target_type']} {thing}  by {who} from {event['source'] or '-'}{also}{why}"
    )
