"""An upgrade as steps, from facts: which there are, which are done, and what is in the way. Pure, but for the
database's backup and the file that remembers what was done.

The order keeps the cloud usable throughout: back up the database, expand its schema (the release before
lives with that), control processes one by one (they understand the agents of the release before), agents
host by host (guests do not notice), and at last contract the schema. Steps are judged by what is so, not by
what was done, so an upgrade that was cut off goes on where it was; the file only knows what cannot be seen.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Unavailable
from cairn.host import private_files

FILE_NAME = "upgrade.json"
BACKUPS = "backups"
PAGES_AT_ONCE = 2000  # of a backup: others may write in between
COMMAND = "sudo ./cairn upgrade"


class Process(Struct, frozen=True, kw_only=True):
    """A control process or an agent, and the release that it runs; "": nobody knows."""

    name: str  # of its machine
    version: str = ""
    wire_version: int = 0
    is_here: bool = False
    state: str = "up"


class SchemaStep(Struct, frozen=True, kw_only=True):
    number: str
    title: str
    contracts: bool = False


class Facts(Struct, frozen=True, kw_only=True):
    release: str  # of this program: where everything should get to
    wire_oldest: int
    wire_newest: int
    has_control: bool = True  # this machine has a control plane, and so reaches the database
    pending: tuple[SchemaStep, ...] = ()
    controls: tuple[Process, ...] = ()
    hosts: tuple[Process, ...] = ()


class Progress(Struct, frozen=True, kw_only=True):
    """What cannot be seen: `<state>/upgrade.json`."""

    release: str = ""
    began_at: str = ""
    backup: str = ""  # where it lies


class Standing(StrEnum):
    DONE = "done"
    NEXT = "to do"  # on this machine, by `cairn upgrade`
    ELSEWHERE = "elsewhere"  # to be done on another machine
    WAITS = "waits"  # for what is before it
    BLOCKED = "blocked"  # cannot be done as things are


class Step(Struct, frozen=True, kw_only=True):
    key: str  # "backup", "expand", "control", "agent", "contract"; of others "control alpha"
    what: str
    standing: Standing
    detail: str = ""  # why, or the command to run


def plan(facts: Facts, progress: Progress) -> list[Step]:
    """All steps in their order."""
    expanding, contracting = _split(facts.pending)
    is_any = bool(facts.pending) or any(_is_old(p, facts) for p in (*facts.controls, *facts.hosts))
    is_backed_up = bool(progress.backup) and progress.release == facts.release
    steps: list[Step] = []
    if facts.has_control:
        steps.append(_backup(is_any=is_any, is_backed_up=is_backed_up, progress=progress))
        steps.append(_schema("expand", "Expand the schema", expanding))
    steps += [_process("control", p, facts) for p in facts.controls]
    steps += [_process("agent", p, facts) for p in facts.hosts]
    if facts.has_control:
        last = _schema("contract", "Contract the schema", contracting)
        behind = [step.what for step in steps if step.standing is not Standing.DONE]
        if last.standing is not Standing.DONE and behind:
            waits = f"for: {'; '.join(behind[:3])}" + ("; …" if len(behind) > 3 else "")
            last = msgspec.structs.replace(last, standing=Standing.WAITS, detail=waits)
        steps.append(last)
    return _after_blocks(steps)


def _split(pending: Sequence[SchemaStep]) -> tuple[list[SchemaStep], list[SchemaStep]]:
    """Steps are taken in order, so only contracting ones at the end can wait."""
    cut = len(pending)
    while cut and pending[cut - 1].contracts:
        cut -= 1
    return list(pending[:cut]), list(pending[cut:])


def _is_old(process: Process, facts: Facts) -> bool:
    return process.version != facts.release


def _backup(*, is_any: bool, is_backed_up: bool, progress: Progress) -> Step:
    what = "Back up the database"
    if is_backed_up:
        return Step(key="backup", what=what, standing=Standing.DONE, detail=progress.backup)
    if not is_any:
        detail = "not needed: nothing changes"
        return Step(key="backup", what=what, standing=Standing.DONE, detail=detail)
    return Step(key="backup", what=what, standing=Standing.NEXT)


def _schema(key: str, what: str, steps: Sequence[SchemaStep]) -> Step:
    named = ", ".join(f"{step.number} {step.title}" for step in steps)
    if not steps:
        return Step(key=key, what=what, standing=Standing.DONE, detail="no step is missing")
    return Step(key=key, what=what, standing=Standing.NEXT, detail=named)


def _process(kind: str, process: Process, facts: Facts) -> Step:
    key = kind if process.is_here else f"{kind} {process.name}"
    words = {"control": "Control process", "agent": "Agent"}
    what = f"{words[kind]} of {process.name}"
    runs = f"it runs {process.version or 'an unknown release'}"
    if not _is_old(process, facts):
        return Step(key=key, what=what, standing=Standing.DONE, detail=runs)
    wire = process.wire_version
    if wire and not facts.wire_oldest <= wire <= facts.wire_newest:
        detail = (
            f"{runs} and speaks wire version {wire}, this release {facts.wire_oldest} to "
            f"{facts.wire_newest}: go through the release in between first"
        )
        return Step(key=key, what=what, standing=Standing.BLOCKED, detail=detail)
    if process.is_here:
        return Step(key=key, what=what, standing=Standing.NEXT, detail=runs)
    where = (
        f"there: {COMMAND}" if process.state == "up" else f"it is {process.state}; when it is back"
    )
    detail = f"{runs}; {where}" + ("" if process.state == "up" else f", there: {COMMAND}")
    return Step(key=key, what=what, standing=Standing.ELSEWHERE, detail=detail)


def _after_blocks(steps: list[Step]) -> list[Step]:
    """Nothing is begun while something blocks: the cloud would be left half way."""
    if not any(step.standing is Standing.BLOCKED for step in steps):
        return steps
    return [
        msgspec.structs.replace(step, standing=Standing.WAITS, detail="for what is blocked")
        if step.standing is Standing.NEXT
        else step
        for step in steps
    ]


# --- what was done -----------------------------------------------------------------------------------


def load(state: Path) -> Progress:
    """What an upgrade before this one noted; an unreadable note counts as none."""
    try:
        return msgspec.json.decode((state / FILE_NAME).read_bytes(), type=Progress)
    except (FileNotFoundError, msgspec.DecodeError):
        return Progress()


def save(state: Path, progress: Progress) -> None:
    private_files.write(state / FILE_NAME, msgspec.json.encode(progress).decode())


def begun(progress: Progress, release: str) -> Progress:
    """The progress of an upgrade to `release`: the one that goes on, or a new one."""
    if progress.release == release:
        return progress
    return Progress(release=release, began_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")


# --- backup ------------------------------------------------------------------------------------------


def back_up_sqlite(database: Path, state: Path, *, release: str) -> Path:
    """A whole copy while others write; it bears its name only when it is whole."""
    target = _target(state, release, "db")
    part = target.with_suffix(".part")
    _require_room(database, part.parent)
    part.touch(mode=0o600)  # It holds what the database holds: keys and hashes.
    source = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    copy = sqlite3.connect(part)
    try:
        source.backup(copy, pages=PAGES_AT_ONCE)
        if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise Unavailable(f"the backup {part} is damaged; nothing was changed")
    except sqlite3.Error as error:
        raise Unavailable(f"{database} cannot be copied", because=str(error)) from error
    finally:
        copy.close()
        source.close()
    part.rename(target)
    return target


def back_up_postgresql(url: str, state: Path, *, release: str) -> Path:
    """By `pg_dump`, whose release must be at least the server's."""
    program = shutil.which("pg_dump")
    if program is None:
        raise Conflict(
            "there is no `pg_dump` here to back up the database: apt-get install postgresql-client, or "
            "back it up by your own means and say so with --backed-up"
        )
    target = _target(state, release, "dump")
    part = target.with_suffix(".part")
    # A password on the command line could be seen by everyone on the machine.
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    done = subprocess.run(
        [program, "--format=custom", f"--file={part}"],
        env={**os.environ, **_connection(plain)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        part.unlink(missing_ok=True)
        raise Unavailable("pg_dump has failed", because=done.stderr.strip()[-500:])
    part.rename(target)
    return target


def _connection(url: str) -> dict[str, str]:
    from urllib.parse import parse_qsl, unquote, urlsplit

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    values = {
        "PGHOST": parts.hostname or query.get("host"),
        "PGPORT": str(parts.port) if parts.port else query.get("port"),
        "PGUSER": unquote(parts.username) if parts.username else query.get("user"),
        "PGPASSWORD": unquote(parts.password) if parts.password else query.get("password"),
        "PGDATABASE": parts.path.lstrip("/") or query.get("dbname"),
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
    }
    return {key: value for key, value in values.items() if value}


def _target(state: Path, release: str, ending: str) -> Path:
    folder = state / BACKUPS
    private_files.make_folder(folder)
    return folder / f"before-{release}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{ending}"


def _require_room(database: Path, folder: Path) -> None:
    wal = database.with_name(database.name + "-wal")
    needed = database.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1:
        raise Conflict(
            f"the backup of the database needs {needed >> 20} MiB in {folder}, {free >> 20} are free"
        )
