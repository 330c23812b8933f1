"""`cairn control migrate | export | import`: what is done to a control plane while it is at rest.

These work with the state directory of this machine and not over HTTP: there is no API while the database
moves, and none yet on a machine that is to become a control machine.
"""

import contextlib
import os
import re
import signal
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli.cloud import until
from cairn.cli.main import state_option
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.host import control_lock, private_files
from cairn.settings import Settings

STOP_S_MAX = 20.0  # for the control process to end; then it is killed, which costs nothing
KILLED_S_MAX = 5.0
API_S_MAX = 60.0


@click.command()
@click.option("--to", "url", required=True, metavar="URL", help="postgresql://user:pw@host/name")
@state_option
@click.pass_context
def migrate(context: click.Context, url: str, state: Path | None) -> None:
    """Move this cloud's database from its file to PostgreSQL. The database there must be empty.

    The API is away while rows are copied, guests run on, agents wait. When it is cut off, the cloud goes
    on with its file; run it again. The file stays beside, renamed.
    """
    from cairn.db import move
    from cairn.db.engine import Database, open_sqlite, with_driver

    settings = _settings(context, state)
    file = settings.control_dir / "cairn.db"
    if settings.database_url:
        raise Conflict("This cloud's database is on PostgreSQL already: see `database_url`.")
    if not file.exists():
        raise Conflict(f"There is no {file}: nothing to move.")
    if not with_driver(url).startswith("postgresql+psycopg://"):
        raise CloudError("--to: only postgresql:// is possible")
    import cairn.app  # noqa: F401 - brings every slice's tables

    with Steps() as steps:
        target = Database(with_driver(url))
        try:
            with steps.step("looking at the new database"):
                _reach(target)
                move.require_room(target)
            was_running = control_lock.holder(settings.control_lock_file) is not None
            with _at_rest(settings, steps):
                source = open_sqlite(file)
                with steps.step("copying") as step:
                    try:
                        moved = move.move(source, target, tell=step.tell)
                    finally:
                        source.close()
                write_settings(settings.state, {"database_url": url})
                kept = file.with_name(f"cairn.db.moved-{datetime.now(UTC):%Y%m%dT%H%M%S}")
                for suffix in ("", "-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        file.with_name(file.name + suffix).rename(
                            kept.with_name(kept.name + suffix)
                        )
        finally:
            target.close()
        if was_running:
            with steps.step("waiting for the control plane") as step:
                until(lambda: _answers(settings, step), what="the API", within_s=API_S_MAX)
    click.echo(f"{sum(one.rows for one in moved)} rows in {len(moved)} tables moved and compared.")
    click.echo(f"The old database lies in {kept}; delete it when you no longer want it.")
    if not was_running:
        click.echo("The control plane did not run; `cairn up` starts it.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@state_option
@click.pass_context
def export(context: click.Context, file: Path, state: Path | None) -> None:
    """Write to FILE what a further control machine needs. Whoever has FILE is the administrator."""
    import msgspec

    from cairn import handover

    given = handover.export(_settings(context, state))
    private_files.write(file, msgspec.json.format(msgspec.json.encode(given)) + b"\n")
    click.echo(
        f"{file} holds the keys of this cloud. Bring it to the new machine by a safe way, run"
        f"\n\n    cairn control import {file.name}\n\nthere, then `cairn up`, and delete it on both."
    )


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@state_option
@click.pass_context
def import_(context: click.Context, file: Path, state: Path | None) -> None:
    """Make this machine a further control machine, with a FILE that `cairn control export` wrote."""
    from cairn import handover

    settings = _settings(context, state)
    write_settings(settings.state, handover.take(settings, file.read_bytes()))
    click.echo("This machine knows the cloud now; `cairn up` or `cairn install` starts it.")


def write_settings(state: Path, values: Mapping[str, str]) -> None:
    """Put these into `cairn.toml` and leave the rest of it as it is."""
    import msgspec

    file = state / settings_file.FILE_NAME
    text = file.read_text() if file.exists() else ""
    for name, value in values.items():
        line = f"{name} = {msgspec.json.encode(value).decode()}\n"  # TOML's strings are JSON's
        found = re.search(rf"(?m)^{name}\s*=.*\n?", text)
        # A new one comes before the first table: settings stand at the top.
        start, end = found.span() if found else (0, 0)
        text = text[:start] + line + text[end:]
    private_files.make_folder(state, mode=0o711)
    private_files.write(file, text)  # Readable by its owner only: the address holds a password.
    settings_file.load(state)  # Raises Invalid if it has become unreadable.


def _settings(context: click.Context, state: Path | None) -> Settings:
    """`--state` may stand before or after the command's name."""
    above = context.parent.params.get("state") if context.parent is not None else None
    return settings_file.load(settings_file.state_dir(state or above))


def _reach(target: Any) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    try:
        with target.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        raise Unavailable(
            "The database to move to cannot be reached.", because=str(error.orig).strip()
        ) from error


@contextlib.contextmanager
def _at_rest(settings: Settings, steps: Steps) -> Iterator[None]:
    """While this lasts the control process is away. Its supervisor starts it again at once, and it waits
    for our lock."""
    with contextlib.ExitStack() as hold:
        with steps.step("stopping the control plane"):
            deadline = time.monotonic() + STOP_S_MAX + KILLED_S_MAX
            while True:
                _end_control(settings)
                try:
                    hold.enter_context(
                        control_lock.held(settings.control_lock_file, as_=control_lock.MOVES)
                    )
                except Conflict:  # Its successor was faster.
                    if time.monotonic() > deadline:
                        raise
                else:
                    break
        yield


def _end_control(settings: Settings) -> None:
    """End the process that serves, if one does. Raises Conflict: the lock is another command's."""
    lock = settings.control_lock_file
    holder = control_lock.holder(lock)
    if holder is not None and holder[1] == control_lock.MOVES:
        raise Conflict(f"process {holder[0]} already moves the database of {settings.state}")
    if holder is not None and holder[0]:
        _end(holder[0], lock)


def _end(pid: int, lock: Path) -> None:
    for number, within_s in ((signal.SIGTERM, STOP_S_MAX), (signal.SIGKILL, KILLED_S_MAX)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            held = control_lock.holder(lock)
            if held is None or held[0] != pid:
                return
            time.sleep(0.05)
    raise Unavailable(f"The control process {pid} does not end.")


def _answers(settings: Settings, step: Step) -> bool | None:
    context = ssl.create_default_context(cafile=settings.certs_dir / "ca.crt")
    url = f"https://127.0.0.1:{settings.api_port}/healthz"
    try:
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:
            return bool(answer.status == 200) or None
    except (OSError, ValueError, urllib.error.URLError) as error:
        step.tell(str(getattr(error, "reason", error)))
        return None
