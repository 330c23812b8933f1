"""The rows of a Keystone's database, as they were sent: texts, told apart by table.

Only what is plainly no such row is refused here. Ids stand in many rows, so one text of each is kept.
"""

import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from cairn.core.errors import Invalid
from cairn.identity.importing.shape import LINE_BYTES_MAX, ROWS_MAX, TABLES

Cells = tuple[str | None, ...]
_decode = msgspec.json.Decoder(list[str | None]).decode


class Rows:
    def __init__(self) -> None:
        self._tables: dict[str, list[Cells]] = {name: [] for name in TABLES}
        self._rest = b""
        self._count = 0

    def feed(self, data: bytes) -> None:
        """More of what was sent. Raises Invalid."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:
                self._take(line)
        if len(self._rest) > LINE_BYTES_MAX:
            raise Invalid(f"Line {self._count + 1} has more than {LINE_BYTES_MAX} bytes.")

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)
        if not self._count:
            raise Invalid("There is no row to import.")

    def of(self, table: str) -> Iterator["Row"]:
        columns = TABLES[table]
        return (Row(columns, cells) for cells in self._tables[table])

    def _take(self, line: bytes) -> None:
        self._count += 1
        if self._count > ROWS_MAX:
            raise Invalid(f"More than {ROWS_MAX} rows cannot be imported at once.")
        try:
            table, *cells = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise Invalid(f"Line {self._count} is no list of texts: {error}") from error
        if table is None or table not in TABLES:
            raise Invalid(f"Line {self._count}: there is no table '{str(table)[:80]}' to import.")
        if len(cells) != len(TABLES[table]):
            raise Invalid(
                f"Line {self._count}: table '{table}' has {len(TABLES[table])} columns, not {len(cells)}."
            )
        if any(cell is not None and "\0" in cell for cell in cells):
            raise Invalid(f"Line {self._count}: text must not contain a NUL character.")
        self._tables[table].append(
            tuple(sys.intern(c) if c is not None and len(c) <= 64 else c for c in cells)
        )


class Row:
    """One row's columns by name."""

    __slots__ = ("_cells", "_columns")

    def __init__(self, columns: tuple[str, ...], cells: Cells) -> None:
        self._columns = columns
        self._cells = cells

    def text(self, column: str) -> str:
        return self._cells[self._columns.index(column)] or ""

    def maybe(self, column: str) -> str | None:
        return self._cells[self._columns.index(column)]

    def flag(self, column: str, *, default: bool = False) -> bool:
        """As MySQL (1) and PostgreSQL (t, true) write it."""
        value = self.maybe(column)
        return default if value is None else value.lower() in ("1", "t", "true")

    def number(self, column: str) -> int | None:
        try:
            return int(float(self.text(column)))
        except (ValueError, OverflowError):
            return None

    def json(self, column: str) -> Any:
        """What a column of JSON holds; None if it is none."""
        try:
            return msgspec.json.decode(self.text(column))
        except (msgspec.DecodeError, RecursionError):
            return None

    def attributes(self) -> dict[str, Any]:
        """Keystone's "extra"."""
        found = self.json("extra")
        return found if isinstance(found, dict) else {}
