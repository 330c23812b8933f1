"""`cairn doctor`: what this machine can do, and the command that cures each lack."""

import sys
from pathlib import Path

import click
import msgspec

from cairn import settings as settings_file
from cairn.cli.main import state_option
from cairn.host import probes
from cairn.host.probes import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@state_option
def doctor(as_json: bool, state: Path | None) -> None:
    """Probe this machine. Ends with 1 if Cairn cannot run on it."""
    findings = probes.probe(settings_file.load(settings_file.state_dir(state)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        for finding in findings:
            _show(finding)
    sys.exit(any(finding.is_fatal for finding in findings))


def _show(finding: Finding) -> None:
    word, colour = ("bad", "red") if finding.is_fatal else ("note", "yellow")
    if finding.is_good:
        word, colour = "good", "green"
    click.echo(f"{click.style(f'{word:5}', fg=colour)} {finding.what}: {finding.found}")
    if finding.cure:
        click.echo(f"      {finding.cure}")
