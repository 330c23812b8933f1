"""What is here, what comes and what becomes of each: the part of an import that all kinds have in common."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Table, select

from cairn.db.engine import Tx
from cairn.identity.importing.report import Report

AT_ONCE = 1000  # rows in one statement
ID = re.compile(r"[\w.-]{1,64}")


class Ledger:
    """Which id of the dump is which here, by kind, filled as kinds are taken over."""

    def __init__(self, tx: Tx) -> None:
        self.report = Report()
        self.ids: dict[str, dict[str, str]] = {}
        self._tx = tx

    def id(self, kind: str, id_: str) -> str | None:
        return self.ids[kind].get(id_)

    def things(
        self,
        kind: str,
        table: Table,
        wanted: list[dict[str, Any]],
        *,
        parents: Mapping[str, str] | None = None,
    ) -> None:
        """Things with an id and, within a domain, a name of their own."""
        has_domain = "domain_id" in table.c
        length = getattr(table.c.name.type, "length", 0)
        columns = ("id", "name", "domain_id") if has_domain else ("id", "name")
        names: dict[tuple[str, ...], str] = {}
        ids: dict[str, str] = {}
        for id_, *name in tuples(self._tx, table, columns):
            names[tuple(name)] = id_
            ids[id_] = name[0]
        self.ids[kind] = {id_: id_ for id_ in ids}
        new = []
        for thing in wanted:
            id_, name = thing["id"], thing["name"]
            key = (name, thing["domain_id"]) if has_domain else (name,)
            if not ID.fullmatch(id_) or not name.strip() or len(name) > length:
                self.report.left_out(
                    kind, f"{kind} {id_[:64]}: its id or name is no good: left out"
                )
            elif id_ in ids:
                self.report.here(kind)
                if ids[id_] != name:
                    self.report.note(
                        f"{kind} {id_} is called {ids[id_]} here and {name} there: it stays so"
                    )
            elif (other := names.get(key)) is not None:
                self.ids[kind][id_] = other
                self.report.merged(
                    kind,
                    f"{kind} {name} ({id_}) is here as {other}: taken for the same, which stays as it is",
                )
            else:
                names[key], ids[id_] = id_, name
                self.ids[kind][id_] = id_
                new.append(thing)
        for thing in new:
            if parents is not None and (parent := self.id(kind, parents.get(thing["id"], ""))):
                thing["parent_id"] = parent
        if new:
            self.report.new(kind, len(new))
        insert(self._tx, table, new)

    def links(
        self,
        kind: str,
        table: Table,
        columns: tuple[str, ...],
        known: set[tuple[str, ...]],
        wanted: Iterable[tuple[str | None, ...]],
        *,
        may: Callable[[tuple[str, ...]], bool] = lambda new: True,
    ) -> None:
        """What says that things belong together. A part that is None is not there."""
        new = []
        for cells in wanted:
            whole = tuple(cell for cell in cells if cell is not None)
            if len(whole) < len(cells) or len(whole) != len(columns):
                said = ", ".join(str(cell or "?") for cell in cells)
                self.report.left_out(kind, f"{kind} of what is not there: {said}: left out")
            elif whole in known:
                self.report.here(kind)
            elif not may(whole):
                self.report.left_out(
                    kind, f"{kind} {', '.join(whole)}: not beside what is here: left out"
                )
            else:
                known.add(whole)
                new.append(dict(zip(columns, whole, strict=True)))
        if new:
            self.report.new(kind, len(new))
        insert(self._tx, table, new)


def insert(tx: Tx, table: Table, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), AT_ONCE):
        tx.execute(table.insert(), rows[start : start + AT_ONCE])


def tuples(tx: Tx, table: Table, columns: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    rows = tx.execute(select(*(table.c[name] for name in columns)))
    return (tuple(str(cell) for cell in row) for row in rows)


def pairs(tx: Tx, table: Table, one: str, other: str) -> set[tuple[str, ...]]:
    return set(tuples(tx, table, (one, other)))
