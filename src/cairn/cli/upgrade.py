"""`cairn upgrade`: from the release that runs to the one that this program is.

Put the new release in place of the old one, then run this on every machine, control machines first. It may
be stopped at any time and run again; `--plan` only shows what it would do. See host/upgrade.py.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from cairn import __version__
from cairn import settings as settings_file
from cairn.cli.cloud import Cloud, Refused, as_operator
from cairn.cli.main import state_option
from cairn.cli.progress import Step as Shown
from cairn.cli.progress import Steps
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.host import supervise
from cairn.host import upgrade as upgrades
from cairn.host.upgrade import Facts, Process, Progress, SchemaStep, Standing
from cairn.settings import Settings

API_S_MAX = 60.0
AGENT_S_MAX = 60.0
LOOK_S = 0.2
SIGNS = {
    Standing.DONE: ("✓", "green"),
    Standing.NEXT: ("→", "cyan"),
    Standing.ELSEWHERE: ("↗", "yellow"),
    Standing.WAITS: ("…", None),
    Standing.BLOCKED: ("✗", "red"),
}


@click.command()
@click.option("--plan", "only_plan", is_flag=True, help="Show the steps; change nothing.")
@click.option("--backed-up", is_flag=True, help="You have backed up the database yourself.")
@click.option("--json", "as_json", is_flag=True, help="With --plan: for machines.")
@state_option
def upgrade(only_plan: bool, backed_up: bool, as_json: bool, state: Path | None) -> None:
    """Bring what runs on this machine to this release, step by step; guests run on."""
    settings = settings_file.load(settings_file.state_dir(state))
    if not settings.node_id_file.exists():
        raise Conflict(f"{settings.state} holds no installation: `cairn up` begins one")
    progress = upgrades.begun(upgrades.load(settings.state), __version__)
    steps = upgrades.plan(_facts(settings), progress)
    if as_json:
        told = [
            {"key": s.key, "what": s.what, "standing": s.standing, "detail": s.detail}
            for s in steps
        ]
        click.echo(json.dumps({"release": __version__, "steps": told}, indent=2))
        return
    if not only_plan:
        if os.geteuid() != 0:
            raise CloudError("this needs root: it restarts services; --plan does not")
        steps = _run(settings, progress, backed_up=backed_up)
    _show(steps)


def _run(settings: Settings, progress: Progress, *, backed_up: bool) -> list[upgrades.Step]:
    """Take the steps of this machine in order, looking anew before each; what remains."""
    taken: set[str] = set()
    with Steps() as shown:
        while True:
            steps = upgrades.plan(_facts(settings), progress)
            blocked = [step for step in steps if step.standing is Standing.BLOCKED]
            if blocked:
                _show(steps)
                raise Conflict(f"the upgrade is not begun: {blocked[0].what}: {blocked[0].detail}")
            step = next((s for s in steps if s.standing is Standing.NEXT), None)
            if step is None:
                return steps
            if step.key in taken:
                raise Unavailable(
                    f"{step.what}: it was done and is still to do", because=step.detail
                )
            taken.add(step.key)
            progress = _take(step, settings, progress, shown, backed_up=backed_up)


def _take(
    step: upgrades.Step, settings: Settings, progress: Progress, shown: Steps, *, backed_up: bool
) -> Progress:
    with shown.step(step.what.lower()) as line:
        if step.key == "backup":
            where = "by yourself" if backed_up else str(_back_up(settings))
            progress = Progress(release=progress.release, began_at=progress.began_at, backup=where)
            upgrades.save(settings.state, progress)
        elif step.key in ("expand", "contract"):
            _change_schema(settings, with_contracts=step.key == "contract")
        else:
            _restart(settings, step.key)
            _wait(settings, step.key, line)
    return progress


def _show(steps: Iterable[upgrades.Step]) -> None:
    steps = list(steps)
    for step in steps:
        sign, colour = SIGNS[step.standing]
        head = click.style(f"{sign} {step.standing:9}", fg=colour)
        click.echo(f"{head} {step.what}" + (f": {step.detail}" if step.detail else ""))
    left = [step for step in steps if step.standing is not Standing.DONE]
    if not left:
        click.echo(f"Everything runs release {__version__}.")


# --- facts -------------------------------------------------------------------------------------------


def _facts(settings: Settings) -> Facts:
    from cairn.wire.link import OLDEST_WIRE_VERSION, WIRE_VERSION

    known = Facts(
        release=__version__,
        wire_oldest=OLDEST_WIRE_VERSION,
        wire_newest=WIRE_VERSION,
        has_control=settings.control,
    )
    replace = msgspec.structs.replace
    if not settings.control:
        return replace(known, hosts=(_own_agent(settings),))
    controls, hosts = _processes(settings)
    return replace(known, pending=_pending(settings), controls=controls, hosts=hosts)


def _own_agent(settings: Settings) -> Process:
    """A host that joined has no credentials of the API: its agent's own word must do."""
    from cairn.cli import launch

    version = str(launch.agent_state(settings).get("version", ""))
    return Process(name=settings.effective_host_name, version=version, is_here=True)


def _processes(settings: Settings) -> tuple[tuple[Process, ...], tuple[Process, ...]]:
    try:
        cloud = as_operator(settings)
        return _controls(cloud), _hosts(cloud, settings)
    except Unavailable:
        if _is_managed("control", settings):
            raise
        # Nothing of Cairn runs here: what starts next is this release.
        return (), ()


def _controls(cloud: Cloud) -> tuple[Process, ...]:
    here = socket.gethostname()
    try:
        told = cloud.get("cairn", "/controls")["controls"]
    except Refused as error:
        if error.status != 404:
            raise
        # The release before this one: it had one control process, the one that answers.
        version = cloud.get("cairn", "/status")["version"]
        return (Process(name=here, version=version, is_here=True),)
    return tuple(
        Process(name=one["name"], version=one["version"], is_here=one["name"] == here)
        for one in told
    )


def _hosts(cloud: Cloud, settings: Settings) -> tuple[Process, ...]:
    from cairn.cli.host_show import every_host

    own = settings.node_id_file.read_text().strip()
    try:
        listed = list(every_host(cloud, []))
    except Refused as error:
        if error.status != 404:
            raise
        nodes = cloud.get("cairn", "/status")["nodes"]
        listed = [{**node, "name": node["hostname"]} for node in nodes]
    found = []
    for host in listed:
        facts = host.get("facts") or {}
        found.append(
            Process(
                name=host["name"],
                version=host.get("agent_version") or facts.get("agent_version") or "",
                wire_version=host.get("wire_version") or 0,
                is_here=host["id"] == own,
                state=host["state"],
            )
        )
    return tuple(found)


def _pending(settings: Settings) -> tuple[SchemaStep, ...]:
    from cairn.db import migrate

    with _database(settings) as database:
        return tuple(
            SchemaStep(number=step.number, title=step.title, contracts=step.contracts)
            for step in migrate.pending(database)
        )


def _database(settings: Settings) -> Any:
    from cairn.db.engine import Database, open_sqlite, with_driver

    if settings.database_url:
        return contextlib.closing(Database(with_driver(settings.database_url)))
    return contextlib.closing(open_sqlite(settings.control_dir / "cairn.db"))


# --- steps -------------------------------------------------------------------------------------------


def _back_up(settings: Settings) -> Path:
    if settings.database_url:
        return upgrades.back_up_postgresql(
            settings.database_url, settings.state, release=__version__
        )
    file = settings.control_dir / "cairn.db"
    return upgrades.back_up_sqlite(file, settings.state, release=__version__)


def _change_schema(settings: Settings, *, with_contracts: bool) -> None:
    import cairn.app  # noqa: F401 - brings every slice's tables
    from cairn.db import migrate

    with _database(settings) as database:
        migrate.upgrade(database, with_contracts=with_contracts)


def _restart(settings: Settings, part: str) -> None:
    """As whoever keeps it running does it; guests and the network's daemons live on."""
    if _has_unit(part):
        _write_units(settings)
        subprocess.run(["systemctl", "restart", _unit(part)], check=True)
        return
    known = supervise.look(settings.state)
    if known is None:
        raise Conflict(
            f"the {part} is not kept running by systemd or `cairn up`: end it and start it yourself"
        )
    if _command(int(known["pid"]))[:1] == [sys.executable]:
        _end_part(settings, part, int(known["parts"][part]["pid"] or 0))
        return
    # The supervisor is of another folder: it would start the old release again.
    from cairn.cli import launch
    from cairn.host import teardown

    teardown.stop(settings)
    launch.start_detached(settings)


def _end_part(settings: Settings, part: str, pid: int) -> None:
    """The supervisor starts it again, from the files that are there now."""
    if pid:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + API_S_MAX
    while time.monotonic() < deadline:
        now = (supervise.look(settings.state) or {}).get("parts", {}).get(part, {}).get("pid")
        if now and now != pid:
            return
        time.sleep(LOOK_S)
    raise Unavailable(
        f"the {part} was ended and does not start again", because=str(settings.log_dir)
    )


def _wait(settings: Settings, part: str, line: Shown) -> None:
    from cairn.cli import launch

    deadline = time.monotonic() + (API_S_MAX if part == "control" else AGENT_S_MAX)
    while True:
        if supervise.look(settings.state) is not None:
            launch.raise_if_failing(settings, part)
        found = _version_now(settings, part)
        if found == __version__:
            return
        line.tell(f"it runs {found or 'not yet'}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the {part} does not come up in release {__version__}",
                because=f"it runs {found or 'not'}; see {settings.log_dir / f'{part}.log'}",
            )
        time.sleep(LOOK_S)


def _version_now(settings: Settings, part: str) -> str:
    """Of the process that answers; of an agent, once the control plane has heard of it."""
    if not settings.control:
        return _own_agent(settings).version
    try:
        controls, hosts = _processes(settings)
    except CloudError:
        return ""
    found = controls if part == "control" else tuple(h for h in hosts if h.state == "up")
    return next((process.version for process in found if process.is_here), "")


def _is_managed(part: str, settings: Settings) -> bool:
    return _has_unit(part) or supervise.is_running(settings.state)


def _unit(part: str) -> str:
    return f"cairn-{part}.service"


def _has_unit(part: str) -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    done = subprocess.run(["systemctl", "is-enabled", "--quiet", _unit(part)], check=False)
    return done.returncode == 0


def _write_units(settings: Settings) -> None:
    """They name this release's interpreter, and whatever else it wants of systemd."""
    from cairn.cli import install
    from cairn.host import private_files

    written = install.units(settings.state, with_control=settings.control)
    stale = [
        name
        for name, text in written.items()
        if _text(install.UNIT_FOLDER / name) not in (None, text)
    ]
    for name in stale:
        private_files.write(install.UNIT_FOLDER / name, written[name], mode=0o644)
    if stale:
        subprocess.run(["systemctl", "daemon-reload"], check=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except FileNotFoundError:
        return []
