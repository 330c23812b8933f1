"""Identity with real tokens, an audit trail, and the routes that show it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import msgspec
import pytest

from cairn import operator
from cairn.audit import api, store
from cairn.audit.records import Event, Filter
from cairn.audit.service import Trail
from cairn.core.clock import FakeClock
from cairn.core.tasks import TaskGroup
from cairn.db.engine import Database
from cairn.http.shell import Shell
from tests.identity.conftest import Cloud


class Audited(Cloud):
    def __init__(self, database: Database, clock: FakeClock, folder: Path) -> None:
        super().__init__(database, clock, folder)
        self.trail = Trail(database, clock=clock, tasks=TaskGroup())
        self.shell = Shell(
            services=[self.service, operator.service([(api.routes(observer="test"), api.POLICY)])],
            database=database,
            authenticate=self.issuer.authenticate,
            auditor=self.trail,
        )
        self._client = falcon.testing.TestClient(self.shell.app)

    def ask(self, query: str = "", *, path: str = "", token: str | None = "") -> Any:
        """GET /cairn/v1/audit…, as the admin unless `token` says otherwise."""
        asyncio.run(self.trail.flush())
        sent = {} if token is None else {"X-Auth-Token": token or self.admin_token}
        return self._client.simulate_get(f"/cairn/v1/audit{path}", query_string=query, headers=sent)

    def events(self, query: str = "", *, token: str = "") -> list[dict[str, Any]]:
        answer = self.ask(query, token=token)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json["events"]
        return found

    def lines(self, query: str = "", *, token: str = "") -> list[dict[str, Any]]:
        answer = self.ask(query, path="/export", token=token)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == api.LINES
        return [msgspec.json.decode(line) for line in answer.content.splitlines()]

    def stored(self) -> list[Event]:
        asyncio.run(self.trail.flush())
        return self.database.read_now(
            lambda tx: store.page(tx, Filter(), limit=1000, oldest_first=True)
        ).events


@pytest.fixture
def cloud(sqlite: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Audited]:
    made = Audited(sqlite, clock, tmp_path)
    yield made
    made.passwords.close()


@pytest.fixture
def cloud_on_both(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Audited]:
    """The same on SQLite and on PostgreSQL."""
    made = Audited(database, clock, tmp_path)
    yield made
    made.passwords.close()
