"""A running installation moves from its file to PostgreSQL, whole, and goes on where it was."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Integer, Table, func, inspect, select

from cairn.core.errors import Conflict, Unavailable
from cairn.db import move
from cairn.db.columns import metadata
from cairn.db.engine import Database, open_sqlite
from tests.control.rig import (
    Control,
    Rig,
    fresh_database,
    make_tables,
    running,
    servers,
    settle_in,
    until,
)
from tests.control.test_loss import Load


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cairn", *words], capture_output=True, text=True, check=False
    )


@contextlib.asynccontextmanager
async def kept_alive(control: Control) -> AsyncIterator[None]:
    """As the supervisor does: a control process that ends is started again."""

    async def keep() -> None:
        while True:
            if control.process is not None and control.process.poll() is not None:
                control.start()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }


def plain(engine: Engine, table: Table) -> list[str]:
    """The rows as the driver shows them, in one order; SQLite has no truth values of its own."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f'SELECT {names} FROM "{table.name}"')
        return sorted(
            repr([int(value) if isinstance(value, bool) else value for value in row])
            for row in found
        )


async def test_a_running_cloud_moves(tmp_path: Path, postgres_url: str) -> None:
    rig = Rig(tmp_path, None, controls=1)
    (control,) = rig.controls
    async with running(rig), kept_alive(control):
        load = Load(rig, await settle_in(rig.client), pause_s=0.05)
        await load.run("before", 10)
        await until(load.all_active)
        boots = {
            guest: (node.id, node.hypervisor.boots[guest])
            for node in rig.nodes
            for guest in node.hypervisor.guests
        }
        before = rows(rig.database.engine)
        url = fresh_database(postgres_url, "moved")
        target = Database(url)  # Empty: the command makes the tables, too.
        address = url.replace("postgresql+psycopg://", "postgresql://")
        during = asyncio.create_task(load.run("during", 40))
        words = ("control", "migrate", "--state", str(control.state), "--to", address)
        done = await asyncio.to_thread(command, *words)
        assert done.returncode == 0, done.stderr + control.log[-3000:]
        assert control.settings.database_url == address
        assert not (control.settings.control_dir / "cairn.db").exists()
        assert len(list(control.settings.control_dir.glob("cairn.db.moved-*"))) >= 1
        await during
        assert not load.refused
        # The token of before is good, everything is there, and new things can be made.
        await load.run("after", 5)
        assert await servers(rig.client)
        await until(load.all_active)
        after = rows(target.engine)
        assert after["servers"] == len(await servers(rig.client)) >= before["servers"] + 5
        assert after["identity_users"] == before["identity_users"]
        assert (control.settings.state / "cairn.toml").stat().st_mode & 0o077 == 0
        for guest, (node_id, count) in boots.items():
            (node,) = [n for n in rig.nodes if n.id == node_id]
            assert node.hypervisor.boots[guest] == count, "a guest was touched"
        again = await asyncio.to_thread(command, *words)
        assert again.returncode == 1 and "PostgreSQL already" in again.stderr
        target.close()


@pytest.fixture
def source(tmp_path: Path) -> Database:
    database = open_sqlite(tmp_path / "cairn.db")
    make_tables(database)
    _fill(database)
    return database


def _fill(database: Database) -> None:
    """Some rows with what is hard to carry: bytes, no value, other alphabets, big numbers, zero bytes
    excepted, which PostgreSQL's text does not have and our API refuses."""
    with database.engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.foreign_keys:
                continue
            for number in range(3):
                values: dict[str, Any] = {}
                for column in table.columns:
                    if column.server_default is None and column.default is None:
                        values[column.name] = _value(column, number)
                connection.execute(table.insert().values(values))


def _value(column: Any, number: int) -> Any:
    if column.nullable and not column.primary_key and number == 1:
        return None
    kind = type(column.type).__name__
    if kind == "Json":
        return {} if "dict" in str(column.type.kind) else None if column.nullable else ()
    return {
        "Time": lambda: datetime(2026, 1, 1, 0, 0, number, 123456, tzinfo=UTC),
        "LargeBinary": lambda: bytes([0, 255, number]),
        "Boolean": lambda: number == 0,
        "Float": lambda: 0.1 + number,
    }.get(kind, lambda: number + 7 if isinstance(column.type, Integer) else f"ü\t\\N\n{number}")()


def test_every_row_arrives_and_numbers_go_on(source: Database, postgres_url: str) -> None:
    target = Database(fresh_database(postgres_url, "rows"))
    make_tables(target)
    move.require_room(target)
    moved = move.move(source, target, tell=lambda _: None)
    assert {one.table: one.rows for one in moved} == rows(source.engine) == rows(target.engine)
    assert sum(one.rows for one in moved) > 50
    for table in metadata.sorted_tables:
        assert plain(source.engine, table) == plain(target.engine, table)
    actions = metadata.tables["server_actions"]
    with target.engine.begin() as connection:
        highest = connection.execute(select(func.max(actions.c.number))).scalar_one()
        values = dict(connection.execute(select(actions)).first()._mapping)  # type: ignore[union-attr]
        del values["number"]
        made = connection.execute(actions.insert().values(values).returning(actions.c.number))
        assert made.scalar_one() == highest + 1
    source.close()
    target.close()


def test_a_move_that_was_cut_off_is_made_again(
    source: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Database(fresh_database(postgres_url, "cut"))
    make_tables(target)

    def cut(what: str) -> None:
        if what.startswith("comparing servers"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move.move(source, target, tell=cut)
    assert set(rows(target.engine).values()) == {0}, "all or nothing"
    # Cut off after the copy, before it was taken into use: the source has gone on since.
    move.move(source, target, tell=lambda _: None)
    with source.engine.begin() as connection:
        connection.execute(metadata.tables["leases"].delete())
    move.require_room(target)
    move.move(source, target, tell=lambda _: None)
    assert rows(target.engine) == rows(source.engine)
    # In use: nobody empties it any more.
    move.begin_use(target)
    with pytest.raises(Conflict, match="not empty"):
        move.require_room(target)
    assert "moved_and_not_in_use" not in inspect(target.engine).get_table_names()
    source.close()
    target.close()


def test_what_does_not_arrive_whole_is_noticed(
    source: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Database(fresh_database(postgres_url, "damaged"))
    make_tables(target)
    with target.engine.begin() as connection:  # A database that changes what it is given.
        connection.exec_driver_sql(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.holder = 'x'; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER spoil BEFORE INSERT ON leases FOR EACH ROW EXECUTE FUNCTION spoil()"
        )
    with pytest.raises(Unavailable, match="leases"):
        move.move(source, target, tell=lambda _: None)
    assert set(rows(target.engine).values()) == {0}
    source.close()
    target.close()


def test_refusals_say_what_to_do(tmp_path: Path, postgres_url: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    words = ("control", "migrate", "--state", str(state), "--to")
    nothing = command(*words, "postgresql://nobody@127.0.0.1:1/x")
    assert nothing.returncode == 1 and "nothing to move" in nothing.stderr
    (state / "control").mkdir()
    database = open_sqlite(state / "control" / "cairn.db")
    make_tables(database)
    database.close()
    unreachable = command(*words, "postgresql://nobody@127.0.0.1:1/x")
    assert unreachable.returncode == 1 and "cannot be reached" in unreachable.stderr
    wrong = command(*words, "mysql://x/y")
    assert wrong.returncode == 1 and "postgresql://" in wrong.stderr
    used = Database(fresh_database(postgres_url, "used"))
    make_tables(used)
    _fill(used)
    full = command(*words, used.url.replace("+psycopg", ""))
    assert full.returncode == 1 and "not empty" in full.stderr
    assert not (state / "cairn.toml").exists()
    used.close()
