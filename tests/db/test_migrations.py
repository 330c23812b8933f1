"""The steps lead to the tables of the code, on both engines, from nothing and again."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

import cairn.app  # noqa: F401 - brings every slice's tables
from cairn.db import migrate
from cairn.db.columns import metadata
from cairn.db.engine import Database, open_sqlite


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return open_sqlite(tmp_path / "cairn.db")
    database = Database(request.getfixturevalue("postgres_url"))
    with database.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    return database


def test_steps_lead_to_the_tables_of_the_code(empty: Database) -> None:
    migrate.upgrade(empty)
    migrate.upgrade(empty)  # Nothing is left to do.
    assert migrate.current(empty) == migrate.newest()
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, metadata)
    assert differences == []
    empty.close()
