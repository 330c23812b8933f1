"""`cairn install`: systemd units for control plane and agent, instead of the supervisor."""

import os
import subprocess
import sys
from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli.main import state_option
from cairn.core.errors import CloudError, Conflict
from cairn.host import engines, private_files, supervise
from cairn.host.prepare import prepare, require_member

UNIT_FOLDER = Path("/etc/systemd/system")
WORDS = {
    "control": "control plane: API, reconcilers, streams to hosts",
    "agent": "agent: guests, disks and networks of this host",
}
# KillMode=process: guests and network daemons are started by the agent and must outlive it.
UNIT = """\
[Unit]
Description=Cairn {words}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={python} -m cairn {part} --state {state}
Restart=always
RestartSec=1
KillMode=process
TimeoutStopSec=30
LimitNOFILE=65536
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""


@click.command()
@click.option("--now/--no-now", default=True, help="Start them, too.")
@state_option
def install(now: bool, state: Path | None) -> None:
    """Have systemd start the cloud with the machine."""
    if not Path("/run/systemd/system").is_dir():
        raise CloudError("this machine does not run systemd; `cairn up --detach` does the same")
    if os.geteuid() != 0:
        raise CloudError("this needs root: it writes systemd units")
    settings = settings_file.load(settings_file.state_dir(state))
    if supervise.is_running(settings.state):
        raise Conflict("Cairn runs under its own supervisor: `cairn down --keep-guests` first")
    engines.ensure_ovs(settings.cache)
    if settings.control:
        prepare(settings)
    else:
        require_member(settings)
    written = units(settings.state, with_control=settings.control)
    for name, text in written.items():
        private_files.write(UNIT_FOLDER / name, text, mode=0o644)
        click.echo(UNIT_FOLDER / name)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    start = ["--now"] if now else []
    subprocess.run(["systemctl", "enable", *start, *written], check=True)


def units(state: Path, *, with_control: bool = True) -> dict[str, str]:
    """The units by file name; a state directory other than the usual one does not change their names."""
    return {
        f"cairn-{part}.service": UNIT.format(
            words=words, python=sys.executable, part=part, state=state
        )
        for part, words in WORDS.items()
        if with_control or part != "control"
    }
