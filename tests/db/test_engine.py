"""Transactions: whole or not at all, grouped, repeated, and followed by their wake-ups."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select

from cairn.core.errors import Conflict, Invalid
from cairn.db.engine import Database, Tx, open_sqlite

tables = MetaData()
things = Table("things", tables, Column("name", String, primary_key=True), Column("size", Integer))


def put(tx: Tx, name: str, size: int = 1) -> str:
    tx.execute(things.insert().values(name=name, size=size))
    tx.wake(f"thing:{name}")
    return name


def names(tx: Tx) -> list[str]:
    return list(tx.execute(select(things.c.name).order_by(things.c.name)).scalars())


@pytest.fixture
def file_database(tmp_path: Path) -> Database:
    database = open_sqlite(tmp_path / "cairn.db")
    tables.create_all(database.engine)
    return database


async def test_many_writes_at_once_all_arrive(file_database: Database) -> None:
    def writer(number: int):  # type: ignore[no-untyped-def]
        return lambda tx: put(tx, f"t{number:03}")

    await asyncio.gather(*(file_database.write(writer(n)) for n in range(200)))
    assert len(await file_database.read(names)) == 200
    file_database.close()


async def test_failed_verb_leaves_nothing_and_spares_its_group(file_database: Database) -> None:
    def broken(tx: Tx) -> None:
        put(tx, "half")
        raise Invalid("no")

    results = await asyncio.gather(
        file_database.write(lambda tx: put(tx, "a")),
        file_database.write(broken),
        file_database.write(lambda tx: put(tx, "b")),
        return_exceptions=True,
    )
    assert [type(r) for r in results] == [str, Invalid, str]
    assert await file_database.read(names) == ["a", "b"]
    file_database.close()


async def test_second_of_the_same_identity_is_a_conflict(file_database: Database) -> None:
    await file_database.write(lambda tx: put(tx, "a"))
    with pytest.raises(Conflict):
        await file_database.write(lambda tx: put(tx, "a"))
    file_database.close()


async def test_wakes_follow_the_commit_only(file_database: Database) -> None:
    heard: list[str] = []
    file_database.on_wake(heard.append)

    def broken(tx: Tx) -> None:
        tx.wake("lost")
        raise Invalid("no")

    await file_database.write(lambda tx: put(tx, "a"))
    with pytest.raises(Invalid):
        await file_database.write(broken)
    assert heard == ["thing:a"]
    file_database.close()


async def test_a_caller_that_gives_up_does_not_stop_the_writer(file_database: Database) -> None:
    tasks = [
        asyncio.create_task(file_database.write(lambda tx, n=n: put(tx, f"t{n}")))
        for n in range(50)
    ]
    await asyncio.sleep(0)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await file_database.write(lambda tx: put(tx, "later")) == "later"
    assert "t0" in await file_database.read(names)
    file_database.close()


async def test_postgresql_repeats_a_clash_whole(postgres_url: str) -> None:
    database = Database(postgres_url)
    tables.drop_all(database.engine)
    tables.create_all(database.engine)
    await database.write(lambda tx: put(tx, "counter", 0))

    def raise_by_one(tx: Tx) -> None:
        size = tx.execute(select(things.c.size)).scalar_one()
        tx.execute(things.update().values(size=size + 1))

    await asyncio.gather(*(database.write(raise_by_one) for _ in range(8)))
    assert await database.read(lambda tx: tx.execute(select(things.c.size)).scalar_one()) == 8
    tables.drop_all(database.engine)
    database.close()


async def test_file_is_private(file_database: Database, tmp_path: Path) -> None:
    assert (tmp_path / "cairn.db").stat().st_mode & 0o077 == 0
    file_database.close()
