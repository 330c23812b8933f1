"""`cairn image build`: guest images from Debian's packages."""

from pathlib import Path

import click

from cairn.cli.main import state_option
from cairn.cli.progress import Steps


@click.group()
def image() -> None:
    """Build guest images."""


@image.command()
@click.argument("name", type=click.Choice(["probe", "debian"]))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@state_option
def build(name: str, out: Path | None, state: Path | None) -> None:
    """Build NAME: `probe` (20 MB, for trying out) or `debian` (with cloud-init)."""
    from cairn import settings as settings_file
    from cairn.host import images

    cache = settings_file.load(settings_file.state_dir(state)).cache
    with Steps() as steps, steps.step(f"building the {name} image"):
        made = images.build(name, out, cache)
    click.echo(made)
