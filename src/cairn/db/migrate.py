"""Bringing a database's schema up to this release, before anything else touches it.

Alembic is imported only when there is something to do: nearly every start finds the newest schema, and
would pay for it with time and for as long as it runs with memory.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import column, inspect, select, table

from cairn.db.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).parent / "migrations"
_STEPS = table("alembic_version", column("version_num"))  # Alembic's own


def upgrade(database: Database) -> None:
    """Run the steps that are missing; nothing when there are none. Safe to repeat after a crash: a step
    is one transaction."""
    if current(database) == newest():
        return
    from alembic import command

    with database.engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(database: Database) -> str | None:
    """The newest step that the database has."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table(_STEPS.name):
            return None
        return connection.execute(select(_STEPS.c.version_num)).scalar()


def newest() -> str:
    """The newest step of this release: files begin with their step's number."""
    names = sorted(file.name for file in (_FOLDER / "versions").glob("[0-9]*.py"))
    return names[-1].split("_", 1)[0]


def write_step(database: Database, *, number: str, message: str) -> None:
    """For developers: write the step that leads from the database's schema to the tables in the code."""
    from alembic import command

    with database.engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.revision(config, message=message, autogenerate=True, rev_id=number)


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config
