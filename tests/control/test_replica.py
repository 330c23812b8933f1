"""A replica answers what may be asked of one, and never with less than what was acknowledged before.

Two real servers with streaming replication. Replay is held back on purpose to see who answers then.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, func, select, text

from cairn.db.engine import Database, Tx
from tests.conftest import _postgres_programs
from tests.control.rig import free_ports, until

tables = MetaData()
things = Table("things", tables, Column("name", String, primary_key=True), Column("n", Integer))


class Server:
    """One PostgreSQL server on a loopback port and a socket of its own."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.data = folder / name
        self.folder = folder
        self.port = port
        self.url = f"postgresql+psycopg://cairn@127.0.0.1:{port}/postgres"

    def run(self, *command: str) -> None:
        as_user = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            if os.geteuid() == 0
            else []
        )
        program, *words = command
        path = _postgres_programs() / program
        subprocess.run(
            [*as_user, str(path), *words], check=True, capture_output=True, cwd=self.folder
        )

    def start(self) -> None:
        options = (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
            " -c wal_level=replica -c hot_standby=on"
        )
        log = str(self.folder / f"{self.port}.log")
        self.run("pg_ctl", "-D", str(self.data), "-s", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-s", "-m", "immediate", "stop")


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    folder = Path(tempfile.mkdtemp(prefix="cairn-pair-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
    ports = free_ports(2)
    primary, replica = (Server(folder, n, p) for n, p in zip("ab", ports, strict=True))
    primary.run("initdb", "-D", str(primary.data), "-A", "trust", "-U", "cairn", "-N")
    primary.start()
    source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "cairn"]
    replica.run("pg_basebackup", *source, "-D", str(replica.data), "-R", "-X", "stream")
    replica.start()
    try:
        yield primary, replica
    finally:
        for server in (replica, primary):
            if (server.data / "postmaster.pid").exists():
                server.stop()
        shutil.rmtree(folder)


def put(tx: Tx, name: str) -> None:
    tx.execute(things.insert().values(name=name, n=1))


def names(tx: Tx) -> list[str]:
    return list(tx.execute(select(things.c.name).order_by(things.c.name)).scalars())


def is_replica(tx: Tx) -> bool:
    return bool(tx.execute(select(func.pg_is_in_recovery())).scalar())


def on(server: Server, statement: str) -> None:
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


async def test_own_writes_are_always_seen(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    database = Database(primary.url, replica_url=replica.url)
    other = Database(primary.url, replica_url=replica.url)  # another control process
    tables.create_all(database.engine)
    assert database.replica is not None and other.replica is not None

    # Written through one process and read through either, again and again, while others write, too.
    async def write_and_read(worker: int) -> None:
        for number in range(25):
            name = f"{worker}-{number:03}"
            await database.write(lambda tx, name=name: put(tx, name))  # type: ignore[misc]
            reader = (database, other)[number % 2]
            assert name in await reader.read(names, stale_ok=True)

    await asyncio.gather(*(write_and_read(worker) for worker in range(4)))
    assert database.replica.reads_total + other.replica.reads_total > 0

    # A replica that stands still is not asked once anything was written.
    await until(lambda: other.read(is_replica, stale_ok=True))
    assert not await other.read(is_replica)
    on(replica, "SELECT pg_wal_replay_pause()")
    await database.write(lambda tx: put(tx, "behind"))
    assert "behind" in await other.read(names, stale_ok=True)
    assert not await other.read(is_replica, stale_ok=True)
    on(replica, "SELECT pg_wal_replay_resume()")
    await until(lambda: other.read(is_replica, stale_ok=True))
    assert "behind" in await other.read(names, stale_ok=True)
    other.close()
    database.close()


async def test_a_replica_that_is_gone_is_not_missed(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    database = Database(primary.url, replica_url=replica.url)
    tables.create_all(database.engine)
    await database.write(lambda tx: put(tx, "a"))
    await until(lambda: database.read(is_replica, stale_ok=True))
    replica.stop()
    assert await database.read(names, stale_ok=True) == ["a"]
    assert not await database.read(is_replica, stale_ok=True)
    database.close()
