"""What each route costs the database: the statements of one good request, written down and held.

`python -m tests.http.test_statements` writes the table anew, for a reviewer to read the difference. A
second cloud that holds several things of each kind must cost its lists not one statement more.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.db.engine import Database
from cairn.http.routes import Route, Service
from tests.http.everything import GOOD, World, name_of, variables

TABLE = Path(__file__).with_name("statements.json")
MORE = 4  # further things of each kind in the second cloud


def who(service: Service) -> str:
    return "admin"


def cost(world: World, service: Service, route: Route) -> tuple[int, int]:
    """Status and statements of one request, which leaves nothing behind."""
    url = world.url(service, route, who(service))
    body = world.filled(GOOD.get(name_of(service, route), {}))
    send = {} if route.body is None else {"body": body}
    kept = _Kept(world.database)
    before = world.database.statements_total
    answer = world.ask(service, route, who(service), url, **send)
    statements = world.database.statements_total - before
    kept.restore()
    return answer.status_code, statements


class _Kept:
    """A copy of an SQLite database in memory, to go back to."""

    def __init__(self, database: Database) -> None:
        import sqlite3

        self._database = database
        self._copy = sqlite3.connect(":memory:")
        self._backup(to_copy=True)

    def restore(self) -> None:
        self._backup(to_copy=False)
        self._copy.close()

    def _backup(self, *, to_copy: bool) -> None:
        raw = self._database.engine.raw_connection()
        held = raw.driver_connection
        assert held is not None
        if to_copy:
            held.backup(self._copy)
        else:
            self._copy.backup(held)
        raw.close()


def costs(world: World) -> dict[str, list[int]]:
    """`{"nova GET /servers": [200, 5]}` for every route that answers by transactions."""
    found = {}
    for service, route in measurable(world):
        found[_key(service, route)] = list(cost(world, service, route))
    return dict(sorted(found.items()))


def measurable(world: World) -> Iterator[tuple[Service, Route]]:
    for service, route in world.routes():
        if route.do is not None:
            yield service, route


def _key(service: Service, route: Route) -> str:
    version = f" until {route.until}" if route.until is not None else ""
    return name_of(service, route) + version


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World("sqlite://", tmp_path_factory.mktemp("statements"))


def test_every_route_costs_what_is_written_down(world: World) -> None:
    written = json.loads(TABLE.read_text())
    found = costs(world)
    wrong = {
        name: f"written {written.get(name)}, found {found.get(name)} (status, statements)"
        for name in sorted(written.keys() | found.keys())
        if written.get(name) != found.get(name)
    }
    assert not wrong, "look why, or write the table anew: python -m tests.http.test_statements"


def test_lists_cost_the_same_however_long_they_are(world: World, tmp_path: Path) -> None:
    longer = World("sqlite://", tmp_path)
    made = sum(longer.make_another(number) for number in range(MORE))
    assert made > 10 * MORE, "most kinds of things can be made again"
    grown = {}
    for service, route in measurable(longer):
        if route.method != "GET" or variables(route):
            continue
        short, long = cost(world, service, route), cost(longer, service, route)
        if long[1] > short[1]:
            grown[_key(service, route)] = f"{short[1]} statements, and {long[1]} for a longer list"
    assert not grown


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table = costs(World("sqlite://", Path(folder)))
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in table.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{len(table)} routes written to {TABLE}\n")
