"""Statements that are compiled once and then run by the driver itself.

SQLAlchemy's own execution of a statement costs several times what the database needs for a point read:
it looks up the compiled form, makes contexts, results and rows. On the paths that every change of ten
thousand hosts takes, the same SQL and the same column types are kept, and only that is left out.

    _BY_ID = Prepared(select(nodes).where(nodes.c.id == bindparam("id")))
    for row in tx.run(_BY_ID, {"id": node_id}): ...
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Table, bindparam
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement

Convert = Callable[[Any], Any]


class Result:
    """Rows as tuples of Python values; of a change, how many rows it met."""

    __slots__ = ("rowcount", "rows")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self.rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def first(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None

    def scalar(self) -> Any:
        """The first column of the first row; None without a row."""
        return self.rows[0][0] if self.rows else None

    def scalars(self) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self.rows]


class Prepared:
    """One statement whose every variable is a named `bindparam`, none of them expanding.

    Of an insert, name the columns: `Prepared(table.insert(), columns=("id", "name"))`. Defaults that
    Python would make are not made here.
    """

    def __init__(self, statement: ClauseElement, *, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = list(columns) if columns is not None else None
        self._forms: dict[str, Form] = {}

    def form(self, dialect: Dialect) -> "Form":
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = Form(self._statement, self._columns, dialect)
        return form


class Form:
    """A statement as one database's driver takes it."""

    def __init__(
        self, statement: ClauseElement, columns: list[str] | None, dialect: Dialect
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._sql = str(compiled)
        dbapi: Any = dialect.dbapi
        self.errors: type[Exception] = dbapi.Error
        self._dbapi_error = dbapi.Error
        binds: Mapping[str, Convert] = compiled._bind_processors
        fixed = {k: v for k, v in compiled.params.items() if v is not None}
        names = compiled.positiontup if compiled.positional else list(compiled.params)
        self._is_positional = bool(compiled.positional)
        self._binds = [(name, binds.get(name), fixed.get(name, _WANTED)) for name in names]
        self._converts = _converts(compiled, dialect)

    def run(self, cursor: Any, parameters: Mapping[str, Any]) -> Result:
        cursor.execute(self._sql, self._bound(parameters))
        if cursor.description is None:
            return Result([], cursor.rowcount)
        rows = cursor.fetchall()
        if self._converts:
            rows = [self._converted(row) for row in rows]
        return Result(rows, len(rows))

    def run_many(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> int:
        cursor.executemany(self._sql, [self._bound(row) for row in rows])
        return int(cursor.rowcount)

    def wrapped(self, error: Exception) -> DBAPIError:
        """The driver's error as SQLAlchemy would have raised it."""
        return DBAPIError.instance(self._sql, None, error, self._dbapi_error)  # type: ignore[return-value]

    def _bound(self, parameters: Mapping[str, Any]) -> Any:
        values = []
        for name, convert, fixed in self._binds:
            value = parameters[name] if fixed is _WANTED else parameters.get(name, fixed)
            values.append(value if convert is None else convert(value))
        if self._is_positional:
            return values
        return dict(zip((name for name, _, _ in self._binds), values, strict=True))

    def _converted(self, row: Sequence[Any]) -> tuple[Any, ...]:
        values = list(row)
        for index, convert in self._converts:
            values[index] = convert(values[index])
        return tuple(values)


_WANTED = object()
"""A variable that the caller must give."""


def _converts(compiled: Any, dialect: Dialect) -> list[tuple[int, Convert]]:
    """The columns whose values are not what the driver gives, and how to read them."""
    columns = compiled._result_columns or []
    found = []
    for index, column in enumerate(columns):
        convert = column.type._cached_result_processor(dialect, None)
        if convert is not None:
            found.append((index, convert))
    return found


@cache
def inserting(table: Table, columns: tuple[str, ...]) -> Prepared:
    """INSERT of these columns, each a variable of its name."""
    return Prepared(table.insert(), columns=columns)


@cache
def updating(table: Table, where: tuple[str, ...], columns: tuple[str, ...]) -> Prepared:
    """UPDATE of these columns where the others are equal to the variables `is_NAME`."""
    values = {name: bindparam(name, type_=table.c[name].type) for name in columns}
    return Prepared(table.update().where(*_equal(table, where)).values(values))


@cache
def deleting(table: Table, where: tuple[str, ...]) -> Prepared:
    """DELETE where these columns are equal to the variables `is_NAME`."""
    return Prepared(table.delete().where(*_equal(table, where)))


def _equal(table: Table, names: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(f"is_{name}", type_=table.c[name].type) for name in names]
