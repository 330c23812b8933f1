"""`cairn host remove`: take a host out of the cloud; it cleans up after itself."""

from pathlib import Path
from urllib.parse import quote, urlencode

import click

from cairn import settings as settings_file
from cairn.cli.cloud import as_operator, until
from cairn.cli.main import state_option
from cairn.cli.progress import Step, Steps

CLEAN_S_MAX = 180.0


@click.command()
@click.argument("name")
@click.option("--gone", is_flag=True, help="It will never come back: what it had is lost.")
@click.option("--wait/--no-wait", default=True, help="Until the host has cleaned up.")
@state_option
def remove(name: str, gone: bool, wait: bool, state: Path | None) -> None:
    """Take a host out of the cloud. Nothing of Cairn stays on it but the cache.

    Refused while servers or volumes live there: drain it first."""
    cloud = as_operator(settings_file.load(settings_file.state_dir(state)))
    path = f"/hosts/{quote(name, safe='')}"
    removed = cloud.get("cairn", path)["host"]
    query = f"?{urlencode({'gone': 'true'})}" if gone else ""
    cloud.delete("cairn", path + query)
    if gone or not wait or removed["state"] != "up":
        click.echo(
            f"{removed['name']} is no member any more. Should it ever come back, it is told to"
            " clean up, and does."
        )
        return

    def is_clean(step: Step) -> bool | None:
        waiting = {one["id"] for one in cloud.get("cairn", "/removed-hosts")["hosts"]}
        step.tell("it ends its guests and network, then deletes its state")
        return removed["id"] not in waiting or None

    with Steps() as steps, steps.step(f"waiting until {removed['name']} has cleaned up") as step:
        until(lambda: is_clean(step), what="the host's word that it is clean", within_s=CLEAN_S_MAX)
    click.echo(f"{removed['name']} is no member any more, and has cleaned up.")
