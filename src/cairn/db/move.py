"""Moving a cloud's rows from one database to another: whole, compared, or not at all.

One snapshot of the source is copied within one transaction of the target, table by table in the order of
their references. Then both sides are read again and compared by count and checksum, still before the
commit. So the target is either empty or complete, and a move that was cut off is simply made again. A
mark says that a complete target is not in use yet; the first control process on it removes the mark.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import (
    Connection,
    Integer,
    String,
    Table,
    TypeDecorator,
    column,
    func,
    inspect,
    select,
    table,
    text,
    type_coerce,
)

from cairn.core.errors import Conflict, Unavailable
from cairn.db import migrate
from cairn.db.columns import metadata
from cairn.db.engine import Database

ROWS_AT_ONCE = 5000
_MARK = table("moved_and_not_in_use", column("since", String))

Tell = Callable[[str], None]


class Moved(Struct, frozen=True, kw_only=True):
    """What was copied of one table."""

    table: str
    rows: int


def require_room(target: Database) -> None:
    """Bring the target's tables up to date. Raises Conflict: it has rows, and not from an earlier move."""
    migrate.upgrade(target)
    with target.engine.begin() as connection:
        if inspect(connection).has_table(_MARK.name):
            _empty(connection)  # A move that was not taken into use: the source has gone on since.
            return
        for one in metadata.sorted_tables:
            if connection.execute(select(one).limit(1)).first() is not None:
                raise Conflict(
                    f"The database to move to is not empty: it has rows in '{one.name}'."
                    " Name an empty one."
                )


def move(source: Database, target: Database, *, tell: Tell) -> list[Moved]:
    """Copy every row and compare. Nobody may write to the source meanwhile. Raises Unavailable, Conflict."""
    if migrate.current(source) != migrate.current(target):
        raise Conflict(
            "The two databases have different schemas: start the control plane of this release once"
            " before you move its database."
        )
    moved = []
    # The target's statements see each other whatever the isolation; a plain one spares bookkeeping.
    engine = target.engine.execution_options(isolation_level="READ COMMITTED")
    with source.engine.connect() as origin, engine.begin() as goal:
        for one in metadata.sorted_tables:
            tell(f"copying {one.name}")
            _copy(origin, goal, one)
        for one in metadata.sorted_tables:
            tell(f"comparing {one.name}")
            ours, theirs = _sum(origin, one), _sum(goal, one)
            if ours != theirs:
                raise Unavailable(
                    f"Table '{one.name}' did not arrive whole; nothing was changed.",
                    because=f"{ours[0]} rows became {theirs[0]}",
                )
            moved.append(Moved(table=one.name, rows=ours[0]))
            _set_sequences(goal, one)
        goal.execute(text(f"CREATE TABLE {_MARK.name} (since VARCHAR(64))"))
        origin.rollback()
    return moved


def begin_use(database: Database) -> None:
    """The database is in use from now on: no later move may empty it."""
    with database.engine.begin() as connection:
        if inspect(connection).has_table(_MARK.name):
            connection.execute(text(f"DROP TABLE {_MARK.name}"))


def _empty(connection: Connection) -> None:
    names = ", ".join(f'"{one.name}"' for one in metadata.sorted_tables)
    connection.execute(text(f"TRUNCATE {names}"))
    connection.execute(text(f"DROP TABLE {_MARK.name}"))


def _copy(origin: Connection, goal: Connection, one: Table) -> None:
    """By PostgreSQL's COPY, several times as fast as inserts."""
    names = ", ".join(f'"{c.name}"' for c in one.columns)
    cursor = goal.connection.cursor()
    with cursor.copy(f'COPY "{one.name}" ({names}) FROM STDIN') as copy:
        for rows in _pages(origin, one):
            for row in rows:
                copy.write_row(row)


def _pages(connection: Connection, one: Table) -> Iterator[Sequence[Any]]:
    """Rows as the database keeps them: what is inside a text is nobody's business here."""
    columns = [
        type_coerce(c, c.type.impl_instance) if isinstance(c.type, TypeDecorator) else c
        for c in one.columns
    ]
    result = connection.execute(select(*columns), execution_options={"yield_per": ROWS_AT_ONCE})
    yield from result.partitions()


def _sum(connection: Connection, one: Table) -> tuple[int, int]:
    """How many rows, and a sum over them that does not depend on their order."""
    count = total = 0
    for rows in _pages(connection, one):
        for row in rows:
            digest = hashlib.blake2b(msgspec.msgpack.encode(tuple(row)), digest_size=16).digest()
            total = (total + int.from_bytes(digest, "big")) % (1 << 128)
            count += 1
    return count, total


def _set_sequences(connection: Connection, one: Table) -> None:
    """Numbers that the database gives go on after the highest that was copied."""
    for key in one.primary_key.columns:
        if not isinstance(key.type, Integer):
            continue
        sequence = connection.execute(
            select(func.pg_get_serial_sequence(f'"{one.name}"', key.name))
        ).scalar()
        highest = connection.execute(select(func.max(key))).scalar()
        if sequence is not None and highest is not None:
            connection.execute(select(func.setval(sequence, highest)))
