"""`cairn oidc`: how this cloud is known to OpenID providers, the part that no OpenStack client can set."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, Refused, as_operator
from cairn.cli.main import LazyCommands, Table, state_option

COMMANDS: Table = {
    "set": ("cairn.cli.oidc", "set_", "Say which provider a protocol asks, and who we are to it."),
    "show": ("cairn.cli.oidc", "show", "Show it, with the redirect address to register there."),
    "remove": ("cairn.cli.oidc", "remove", "Ask the provider no more; its users' tokens end."),
}
_KEPT = ("discovery_url", "scopes", "audiences", "ca_certificates")


@click.command(cls=LazyCommands, table=COMMANDS)
def oidc() -> None:
    """OpenID Connect: the client of a protocol that `openstack federation protocol create` made."""


@click.command("set")
@click.argument("provider")
@click.argument("protocol")
@click.option("--issuer", required=True, help="The provider's issuer, as its discovery names it.")
@click.option("--client-id", required=True, help="Our name there.")
@click.option(
    "--secret-file",
    type=click.File("r"),
    help="The client's secret; '-' reads it from standard input. Without: the one that is there.",
)
@click.option("--no-secret", is_flag=True, help="The client is public: take the secret away.")
@click.option("--discovery-url", help="Where discovery is, if not below the issuer.")
@click.option("--scope", "scopes", multiple=True, help="What web sign-on asks for; repeatable.")
@click.option(
    "--audience", "audiences", multiple=True, help="Another client whose tokens count; repeatable."
)
@click.option("--ca-file", type=click.File("r"), help="Certificates that the provider's TLS needs.")
@state_option
def set_(
    provider: str,
    protocol: str,
    issuer: str,
    client_id: str,
    secret_file: Any,
    no_secret: bool,
    discovery_url: str | None,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    ca_file: Any,
    state: Path | None,
) -> None:
    """Say which OpenID provider PROTOCOL of PROVIDER asks. What is not given stays as it is."""
    if secret_file is not None and no_secret:
        raise click.UsageError("--secret-file and --no-secret exclude each other")
    cloud, path = _operator(state), _path(provider, protocol)
    wish: dict[str, Any] = {"issuer": issuer, "client_id": client_id}
    wish |= {name: value for name, value in _before(cloud, path).items() if name in _KEPT}
    if discovery_url is not None:
        wish["discovery_url"] = discovery_url
    if scopes:
        wish["scopes"] = scopes
    if audiences:
        wish["audiences"] = audiences
    if ca_file is not None:
        wish["ca_certificates"] = ca_file.read()
    if secret_file is not None:
        wish["client_secret"] = secret_file.read().strip()
    elif no_secret:
        wish["client_secret"] = None
    _tell(cloud.put("identity", path, {"oidc_client": wish})["oidc_client"])


@click.command()
@click.argument("provider")
@click.argument("protocol")
@state_option
def show(provider: str, protocol: str, state: Path | None) -> None:
    """Show the client of PROTOCOL of PROVIDER. Its secret is shown to nobody."""
    _tell(_operator(state).get("identity", _path(provider, protocol))["oidc_client"])


@click.command()
@click.argument("provider")
@click.argument("protocol")
@state_option
def remove(provider: str, protocol: str, state: Path | None) -> None:
    """Ask the provider no more. The tokens of its users end."""
    _operator(state).delete("identity", _path(provider, protocol))
    click.echo(f"Nobody signs in with {protocol} of {provider} any more.")


def _before(cloud: Cloud, path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = cloud.get("identity", path)["oidc_client"]
    except Refused as error:
        if error.status != 404:
            raise
        return {}
    return found


def _tell(client: dict[str, Any]) -> None:
    secret = "kept" if client["has_client_secret"] else "none"
    rows = {
        "issuer": client["issuer"],
        "client id": client["client_id"],
        "client secret": secret,
        "discovery": client["discovery_url"] or "below the issuer",
        "scopes": " ".join(client["scopes"]),
        "audiences": " ".join(client["audiences"]) or "ours only",
        "certificates": "its own" if client["ca_certificates"] else "the machine's",
    }
    for name, value in rows.items():
        click.echo(f"{name:14} {value}")
    click.echo("Register there, as the address that users are sent back to:", err=True)
    click.echo(client["redirect_uri"])


def _path(provider: str, protocol: str) -> str:
    ids = quote(provider, safe=""), quote(protocol, safe="")
    return "/OS-FEDERATION/identity_providers/{}/protocols/{}/oidc_client".format(*ids)


def _operator(state: Path | None) -> Cloud:
    return as_operator(settings_file.load(settings_file.state_dir(state)))
