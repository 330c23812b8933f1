"""`cairn token`: make, list and revoke the tokens by which machines become members."""

from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "create": ("cairn.cli.token", "create", "Make a token for one host; prints it, and only it."),
    "list": ("cairn.cli.token", "list_tokens", "List the tokens and who used them."),
    "revoke": ("cairn.cli.token", "revoke", "Make a token worthless."),
}
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@click.command(cls=LazyCommands, table=COMMANDS)
def token() -> None:
    """Tokens make machines members: one token, one host, once."""


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`90min`, `12h`, `7d` as seconds."""

    name = "duration"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        number = value.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = value[len(number) :].strip() or "s"
        if not number.isdecimal() or unit not in UNITS:
            self.fail(f"'{value}' is no duration: write 90min, 12h or 7d", param, ctx)
        return int(number) * UNITS[unit]


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["compute", "network", "storage", "power"]),
    help="What the host does; may be repeated [default: compute and storage].",
)
@click.option("--zone", default="nova", show_default=True, help="Where the host stands.")
@click.option("--rack", default="", help="The host's rack.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option(
    "--expires", type=Duration(), default="24h", show_default=True, help="As 90min or 7d."
)
@state_option
def create(
    roles: tuple[str, ...],
    zone: str,
    rack: str,
    labels: tuple[str, ...],
    expires: int,
    state: Path | None,
) -> None:
    """Make a token for one host. It is printed once and kept nowhere."""
    wish = {
        "roles": list(roles) or ["compute", "storage"],
        "zone": zone,
        "rack": rack,
        "labels": dict(_label(text) for text in labels),
        "expires_in_s": expires,
    }
    made = _operator(state).post("cairn", "/tokens", {"token": wish})["token"]
    click.echo(
        f"A token for one host ({', '.join(made['roles'])}; zone {made['zone']}), good until"
        f" {_moment(made['expires_at'])}. On that machine, as root:  cairn join TOKEN",
        err=True,
    )
    click.echo(made["text"])


@click.command("list")
@state_option
def list_tokens(state: Path | None) -> None:
    """List the tokens, the newest first; their secrets are known to nobody."""
    found = _operator(state).get("cairn", "/tokens")["tokens"]
    for one in found:
        click.echo(
            f"{one['id']}  {one['state']:7}  {','.join(one['roles']):24}  zone {one['zone']}"
            f"  {_fate(one)}"
        )
    if not found:
        click.echo("There are no tokens: `cairn token create` makes one.", err=True)


@click.command()
@click.argument("token_id", metavar="ID")
@state_option
def revoke(token_id: str, state: Path | None) -> None:
    """Make a token worthless. A host that used it stays a member."""
    _operator(state).delete("cairn", f"/tokens/{token_id}")
    click.echo(f"Nobody joins with {token_id} any more.")


def _operator(state: Path | None) -> Cloud:
    return as_operator(settings_file.load(settings_file.state_dir(state)))


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise click.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--label")
    return key, value


def _fate(one: dict[str, str]) -> str:
    if one["state"] == "used":
        return f"by {one['used_hostname']} on {_moment(one['used_at'])}"
    word = "since" if one["state"] == "expired" else "until"
    return f"{word} {_moment(one['expires_at'])}"


def _moment(text: str) -> str:
    return text[:16].replace("T", " ") + " UTC"
