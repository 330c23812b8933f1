"""`cairn dev`: the whole cloud on fake hosts in one process, for work on APIs and clients."""

from pathlib import Path

import click

from cairn.core import log


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=18774, show_default=True)
@click.option("--hosts", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--settings",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with a cairn.toml: what it says of passwords and accounts counts here, too.",
)
def dev(port: int, hosts: int, settings: Path | None) -> None:
    """Run control plane and agents over fake engines; nothing is kept, nothing is real but the API."""
    from cairn.app import security_of
    from cairn.settings import load
    from cairn.sim.dev import PASSWORD, serve

    log.configure()
    url = f"http://127.0.0.1:{port}/identity/v3"
    click.echo(f"export OS_AUTH_URL={url} OS_USERNAME=admin OS_PASSWORD={PASSWORD}")
    click.echo(
        "export OS_PROJECT_NAME=admin OS_USER_DOMAIN_ID=default OS_PROJECT_DOMAIN_ID=default"
    )
    click.echo("export OS_IDENTITY_API_VERSION=3 OS_REGION_NAME=RegionOne")
    strict = security_of(load(settings)) if settings else None
    serve(port=port, hosts=hosts, security=strict)
