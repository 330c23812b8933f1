"""`cairn keys`: the keys that sign tokens and seal credentials."""

import datetime
import json
from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.cloud import as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "list": ("cairn.cli.keys", "list_keys", "List the keys: what each does, since when."),
    "rotate": ("cairn.cli.keys", "rotate", "Make new keys; no token and no credential fails."),
}
DOES = {
    ("fernet", "primary"): "signs tokens",
    ("fernet", "staged"): "signs next",
    ("fernet", "retired"): "checks what it signed",
    ("credentials", "primary"): "seals credentials",
    ("credentials", "retired"): "opens what it sealed",
}


@click.command(cls=LazyCommands, table=COMMANDS)
def keys() -> None:
    """Keys sign tokens and seal credentials. Nobody is shown one; they are kept in the database,
    sealed by a file that lies on the control machines alone."""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@state_option
def list_keys(as_json: bool, state: Path | None) -> None:
    """List the keys. A key that signs no more is kept until its last token has expired."""
    found = as_operator(settings_file.load(settings_file.state_dir(state))).get("cairn", "/keys")
    if as_json:
        click.echo(json.dumps(found["keys"], indent=2))
    else:
        _show(found["keys"])


@click.command()
@click.option("--fernet", is_flag=True, help="The keys that sign tokens; the default.")
@click.option("--credentials", is_flag=True, help="The keys that seal credentials.")
@click.option("--all", "all_", is_flag=True, help="Both.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@state_option
def rotate(fernet: bool, credentials: bool, all_: bool, as_json: bool, state: Path | None) -> None:
    """Make new keys. Tokens that were issued before stay good until they expire."""
    kinds = ["credentials"] if credentials or all_ else []
    if fernet or all_ or not kinds:
        kinds.insert(0, "fernet")
    operator = as_operator(settings_file.load(settings_file.state_dir(state)))
    made = operator.post("cairn", "/keys/rotate", {"rotate": {"kinds": kinds}})
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    _show([key for key in made["keys"] if key["kind"] in kinds])
    if made["credentials_sealed"] is not None:
        click.echo(f"{made['credentials_sealed']} credentials were sealed anew.", err=True)


def _show(found: list[dict[str, str]]) -> None:
    for key in found:
        does = DOES.get((key["kind"], key["state"]), key["state"])
        until = f"  until {_moment(key['needed_until'])}" if key["needed_until"] else ""
        click.echo(
            f"{key['kind']:12} {key['number']:>5}  {does:22}  since {_moment(key['since'])}{until}"
        )


def _moment(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
