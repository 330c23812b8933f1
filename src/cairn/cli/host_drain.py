"""`cairn host drain` and `cairn host undrain`: a host is emptied, watched, or opened again.

The drain is the control plane's: this command begins it and looks on, and may be ended at any time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from cairn.cli.cloud import Cloud
from cairn.cli.host_show import json_option, operator_at
from cairn.cli.main import state_option

if TYPE_CHECKING:
    from rich.table import Table

LOOK_PERIOD_S = 1.0
TRIES_MAX = (
    3  # of one guest, after which the command no longer waits for it; the drain goes on trying
)
MIB = 1 << 20
UNDER_WAY = ("waiting", "preparing", "copying", "stopping")
COLOURS = {"done": "green", "copying": "cyan", "failed": "red", "stays": "yellow"}

Drain = dict[str, Any]


@click.command()
@click.argument("name")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Only say what would go where, and what not."
)
@click.option("--no-wait", is_flag=True, help="Begin, and do not look on.")
@json_option
@state_option
def drain(name: str, plan_only: bool, no_wait: bool, as_json: bool, state: Path | None) -> None:
    """Move every guest away, live where it can, and place no new ones here.

    What does not fit elsewhere is said beforehand and stays; the rest goes. Ends with 1 if something
    stayed. Interrupting the command interrupts nothing else: `cairn host undrain NAME` does."""
    cloud = operator_at(state)
    path = f"/hosts/{quote(name, safe='')}/drain"
    found: Drain = cloud.get("cairn", path)["drain"]
    if not as_json:
        _tell(plan_lines(found))
    if not plan_only:
        found = cloud.post("cairn", path, {})["drain"]
        if not no_wait:
            found = _watch(lambda: _look(cloud, path), found, is_quiet=as_json)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not plan_only and not no_wait:
        _tell(end_lines(found))
    if not plan_only and not no_wait and remaining(found):
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option("--cancel", is_flag=True, help="Also turn back the guests that are being copied.")
@state_option
def undrain(name: str, cancel: bool, state: Path | None) -> None:
    """Place new guests here again; what has not begun to move stays.

    Guests that are being copied go on to where they go, unless --cancel."""
    cloud = operator_at(state)
    path = f"/hosts/{quote(name, safe='')}/drain"
    cloud.delete("cairn", f"{path}?running={'cancel' if cancel else 'finish'}")
    found = _look(cloud, path)
    moving = [g for g in found["servers"] if g["state"] in ("preparing", "copying", "stopping")]
    click.echo(f"{found['host']}: is not drained any more; {len(moving)} guests still move")
    for guest in moving:
        click.echo(f"  {guest['name']}: {said(guest)}")


def _look(cloud: Cloud, path: str) -> Drain:
    found: Drain = cloud.get("cairn", path)["drain"]
    return found


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line)


# --- words -------------------------------------------------------------------------------------------


def plan_lines(found: Drain) -> Iterator[str]:
    """What would go where, and what stays and why."""
    here = [g for g in found["servers"] if g["state"] != "done"]
    going = [g for g in here if g["state"] != "stays"]
    staying = [g for g in here if g["state"] == "stays"]
    if not here:
        yield f"{found['host']} has no guests."
    if going:
        yield f"{len(going)} of {len(here)} guests of {found['host']} can go:"
    for guest in going:
        disk = f", {guest['disk_gib']} GiB of disk" if guest["disk_gib"] else ""
        how = "live" if guest["way"] == "live" else "stopped meanwhile"
        what = f"{guest['memory_mib']} MiB of memory{disk}"
        yield f"  {guest['name']} → {guest['target'] or '?'} ({how}; {what})"
    if staying:
        yield f"{len(staying)} cannot go:"
    for guest in staying:
        yield f"  {guest['name']}: {guest['reason']}"
    if found["volumes"]:
        yield f"{len(found['volumes'])} volumes stay:"
    for volume in found["volumes"]:
        yield f"  {volume['name'] or volume['id']} ({volume['size_gib']} GiB): {volume['reason']}"


def end_lines(found: Drain) -> Iterator[str]:
    done = [g for g in found["servers"] if g["state"] == "done"]
    left = remaining(found)
    yield f"{len(done)} guests moved, {len(left)} are still on {found['host']}."
    for guest in left:
        yield f"  {guest['name']}: {said(guest)}"
    if left:
        yield "The drain goes on trying; `cairn host undrain` ends it."


def remaining(found: Drain) -> list[dict[str, Any]]:
    return [g for g in found["servers"] if g["state"] != "done"]


def said(guest: dict[str, Any]) -> str:
    """How far one guest is, in a line."""
    where = f" to {guest['target']}" if guest["target"] else ""
    match guest["state"]:
        case "waiting":
            return f"waits{where and ' to go' + where}"
        case "copying" if not guest["total_bytes"]:
            return f"copying{where}"  # The host has not said yet how much.
        case "copying":
            done_mib = (guest["total_bytes"] - guest["left_bytes"]) // MIB
            return f"copying{where}: {done_mib} of {guest['total_bytes'] // MIB} MiB"
        case "stopping":
            return f"is called back ({guest['reason']})"
        case "done":
            pause = f", stood still for {guest['pause_ms']} ms" if guest["way"] == "live" else ""
            return f"done{where and ', now on' + where[3:]}{pause}"
        case "failed":
            return f"failed ({guest['tries']} times): {guest['reason']}"
        case "stays":
            return f"stays: {guest['reason']}"
        case state:
            return f"{state}{where}"


# --- looking on --------------------------------------------------------------------------------------


def is_over(found: Drain) -> bool:
    """Nothing moves, and nothing will soon."""
    return not any(
        g["state"] in UNDER_WAY or (g["state"] == "failed" and g["tries"] < TRIES_MAX)
        for g in found["servers"]
    )


def _watch(look: Callable[[], Drain], found: Drain, *, is_quiet: bool) -> Drain:
    show = _watch_quietly if is_quiet else _watch_live if sys.stdout.isatty() else _watch_plainly
    try:
        return show(look, found)
    except KeyboardInterrupt:
        name = found["host"]
        click.echo(f"\nThe drain goes on. `cairn host undrain {name}` ends it.", err=True)
        sys.exit(130)


def _steps(look: Callable[[], Drain], found: Drain) -> Iterator[Drain]:
    yield found
    while not is_over(found):
        time.sleep(LOOK_PERIOD_S)
        found = look()
        yield found


def _watch_quietly(look: Callable[[], Drain], found: Drain) -> Drain:
    for step in _steps(look, found):
        found = step
    return found


def _watch_plainly(look: Callable[[], Drain], found: Drain) -> Drain:
    """A line whenever a guest comes to another state."""
    told: dict[str, str] = {}
    for step in _steps(look, found):
        found = step
        for guest in found["servers"]:
            if told.get(guest["id"]) != guest["state"]:
                told[guest["id"]] = guest["state"]
                click.echo(f"{guest['name']}: {said(guest)}")
    return found


def _watch_live(look: Callable[[], Drain], found: Drain) -> Drain:
    from rich.live import Live

    with Live(_table(found), transient=True) as live:
        for step in _steps(look, found):
            found = step
            live.update(_table(found))
    return found


def _table(found: Drain) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("GUEST", "STATE"):
        table.add_column(title)
    for guest in found["servers"]:
        colour = COLOURS.get(guest["state"], "white")
        table.add_row(escape(guest["name"]), f"[{colour}]{escape(said(guest))}[/{colour}]")
    return table
