"""Bringing a database's schema up to this release, before anything else touches it.

Alembic is imported only when there is something to do: nearly every start finds the newest schema, and
would pay for it with time and for as long as it runs with memory.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from sqlalchemy import Connection, column, func, inspect, select, table

from cairn.db.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x636169726E  # "cairn": any number that nobody else locks
_FOLDER = Path(__file__).parent / "migrations"
_STEPS = table("alembic_version", column("version_num"))  # Alembic's own


class Step(Struct, frozen=True, kw_only=True):
    """One change of the schema. One that expands is harmless to the release before; one that contracts
    takes away what no release reads any more, and may wait."""

    number: str
    title: str
    contracts: bool = False


def upgrade(database: Database, *, with_contracts: bool = False) -> None:
    """Run the steps that are missing; nothing when there are none. Safe to repeat after a crash: a step
    is one transaction.

    Contracting steps at the end wait for `cairn upgrade`, or for the next step that expands. A database
    that a newer release has expanded is used as it is."""
    missing = pending(database)
    while missing and missing[-1].contracts and not with_contracts:
        missing.pop()
    if not missing:
        return
    from alembic import command

    with _alone(database) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, missing[-1].number)


def pending(database: Database) -> list[Step]:
    """The steps of this release that the database has not seen."""
    seen = current(database) or ""
    return [step for step in steps() if step.number > seen]


def steps() -> list[Step]:
    """All steps of this release, in order. They are read, not imported: that would need Alembic."""
    found = []
    for file in sorted((_FOLDER / "versions").glob("[0-9]*.py")):
        text = file.read_text()
        title = text.lstrip().removeprefix('"""').partition("\n")[0].rstrip('".')
        contracts = re.search(r"^CONTRACTS\b", text, re.MULTILINE) is not None
        found.append(Step(number=file.name.split("_", 1)[0], title=title, contracts=contracts))
    return found


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction beside which no other process takes a step: two of them may start at once."""
    if database.is_sqlite:
        with database.engine.begin() as connection:
            yield connection
        return
    # Each statement must see what is there when it has its turn, not when it began to wait for it.
    engine = database.engine.execution_options(isolation_level="READ COMMITTED")
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def current(database: Database) -> str | None:
    """The newest step that the database has."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table(_STEPS.name):
            return None
        return connection.execute(select(_STEPS.c.version_num)).scalar()


def newest() -> str:
    """The newest step of this release: files begin with their step's number."""
    return steps()[-1].number


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
