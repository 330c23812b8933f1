"""What every test may use: real databases (SQLite in memory, PostgreSQL in a folder), callers, an API.

Store and service tests that take `database` run twice, once on each engine; a machine without
PostgreSQL's programs fails them, for a skipped test is no passed test.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError

import cairn.app  # noqa: F401 - brings the tables of every slice
from cairn.core.clock import FakeClock
from cairn.core.ids import SeededRandomness
from cairn.db.columns import metadata
from cairn.db.engine import Database


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    assert on_path, "PostgreSQL's programs are not installed (package postgresql)"
    return Path(on_path).parent


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this test run only, on a unix socket in a folder of its own."""
    programs = _postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="cairn-pg-", dir="/tmp"))
    data, socket = folder / "data", folder / "s"
    socket.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
        for path in (folder, socket):
            shutil.chown(path, "nobody", "nogroup")
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    command = [
        *as_user,
        str(programs / "initdb"),
        "-D",
        str(data),
        "-A",
        "trust",
        "-U",
        "cairn",
        "-N",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    options = f"-k {socket} -c listen_addresses= -c fsync=off -c max_connections=100"
    control = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-s", "-w"]
    subprocess.run(
        [*control, "-l", str(socket / "log"), "-o", options, "start"], check=True, cwd=folder
    )
    try:
        yield f"postgresql+psycopg://cairn@/postgres?host={socket}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[Database]:
    """An empty database with every table, on each engine in turn."""
    if request.param == "sqlite":
        db = _open("sqlite://", clock)
        _fill_with_tables(db)
    else:
        db = _open(request.getfixturevalue("postgres_url"), clock)
        _empty(db)
    yield db
    db.close()


@pytest.fixture
def sqlite(clock: FakeClock) -> Iterator[Database]:
    """An empty SQLite database in memory, for tests in which the engine does not matter."""
    db = _open("sqlite://", clock)
    _fill_with_tables(db)
    yield db
    db.close()


def _open(url: str, clock: FakeClock) -> Database:
    return Database(url, clock=clock, randomness=SeededRandomness(1), inline=True)


@cache
def _template() -> bytes:
    """An empty SQLite database with every table: copied in a millisecond, made in fifty."""
    with Database("sqlite://", inline=True).engine.connect() as connection:
        metadata.create_all(connection)
        connection.commit()
        driver: sqlite3.Connection = connection.connection.driver_connection
        return driver.serialize()


def _fill_with_tables(db: Database) -> None:
    with db.engine.connect() as connection:
        connection.connection.driver_connection.deserialize(_template())


def _empty(db: Database) -> None:
    """Every table and no row. Emptying is a hundred times faster than making the tables again."""
    deletes = "; ".join(f'DELETE FROM "{table.name}"' for table in metadata.sorted_tables)
    try:
        with db.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(deletes)
    except ProgrammingError:  # The first test of this run, or one that made tables of its own.
        with db.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        metadata.create_all(db.engine)
