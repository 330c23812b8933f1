"""A bootstrapped identity service with real tokens, in process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import msgspec
import pytest

from cairn.core.clock import Clock, FakeClock
from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.http.shell import Shell
from cairn.identity import api, service
from cairn.identity.accounts.passwords import Passwords, hash_now
from cairn.identity.accounts.security import USUAL, Security
from cairn.identity.catalog.catalog import entries_of
from cairn.identity.directory.directories import Directories
from cairn.identity.keys import KeyRepository
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import TokenIssuer

SEALING_KEY = bytes(32)
ADMIN_PASSWORD = "admin's password"
ADMIN_HASH = hash_now(ADMIN_PASSWORD)  # once a test run: it is dear on purpose


class Cloud:
    """Identity alone, asked over HTTP with the tokens that it gave out."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        folder: Path,
        security: Security = USUAL,
        **options: Any,
    ) -> None:
        self.database = database
        self.clock = clock
        self.keys = KeyRepository(database, Sealer(SEALING_KEY), clock=clock)
        self.revocations = Revocations(database)
        self.issuer = TokenIssuer(self.keys, clock, self.revocations, lifetime_s=3600)
        self.passwords = Passwords()
        self.admin = database.write_now(lambda tx: service.bootstrap(tx, ADMIN_HASH))
        self.directories = Directories(database, Sealer(SEALING_KEY), down_s=0.0)
        identity = api.service(
            api.Options(
                database=database,
                issuer=self.issuer,
                passwords=self.passwords,
                sealer=Sealer(SEALING_KEY),
                security=security,
                directories=self.directories,
                entries=lambda: entries_of([identity]),
                **options,
            )
        )
        self.service = identity
        self.shell = Shell(
            services=[identity], database=database, authenticate=self.issuer.authenticate
        )
        self._client = falcon.testing.TestClient(self.shell.app)
        self._admin_token: str | None = None

    @property
    def admin_token(self) -> str:
        if self._admin_token is None:
            self._admin_token = self.token("admin", ADMIN_PASSWORD, scope=scope_of("admin"))
        return self._admin_token

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask below /identity/v3; as the admin unless `token` says otherwise."""
        sent = dict(headers or {})
        if token == "":
            token = self.admin_token
        if token is not None:
            sent["X-Auth-Token"] = token
        if body is not None:
            sent["Content-Type"] = "application/json"
        bare, _, query = path.partition("?")
        return self._client.simulate_request(
            method,
            f"/identity/v3{bare}",
            query_string=query,
            headers=sent,
            body=None if body is None else msgspec.json.encode(body),
        )

    def sign_in(self, user: str, password: str, *, scope: Any = None) -> Any:
        return self.call("POST", "/auth/tokens", sign_in_body(user, password, scope), token=None)

    def token(self, user: str, password: str, *, scope: Any = None) -> str:
        answer = self.sign_in(user, password, scope=scope)
        assert answer.status_code == 201, answer.text
        token = answer.headers["x-subject-token"]
        assert isinstance(token, str)
        return token

    def make(self, kind: str, **attributes: Any) -> Any:
        """`make("user", name="ann")`"""
        answer = self.call("POST", f"/{kind}s", {kind: attributes})
        assert answer.status_code == 201, answer.text
        return answer.json[kind]

    def role_id(self, name: str) -> str:
        (role,) = self.call("GET", f"/roles?name={name}").json["roles"]
        return str(role["id"])

    def grant(self, user_id: str, project_id: str, role: str) -> str:
        path = f"/projects/{project_id}/users/{user_id}/roles/{self.role_id(role)}"
        answer = self.call("PUT", path)
        assert answer.status_code == 204, answer.text
        return path

    def is_good(self, token: str) -> bool:
        """Whether a request with this token gets in."""
        status = self.call("GET", "/auth/projects", token=token).status_code
        assert status in (200, 401)
        return bool(status == 200)


def scope_of(project: str) -> dict[str, Any]:
    return {"project": {"name": project, "domain": {"id": "default"}}}


def sign_in_body(user: str, password: str, scope: Any = None) -> dict[str, Any]:
    who = {"name": user, "domain": {"id": "default"}, "password": password}
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": who}}}
    if scope is not None:
        auth["scope"] = scope
    return {"auth": auth}


def token_body(token: str, scope: Any = None) -> dict[str, Any]:
    auth: dict[str, Any] = {"identity": {"methods": ["token"], "token": {"id": token}}}
    if scope is not None:
        auth["scope"] = scope
    return {"auth": auth}


@pytest.fixture
def cloud(sqlite: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(sqlite, clock, tmp_path)
    yield made
    made.passwords.close()


@pytest.fixture
def cloud_on_both(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Cloud]:
    """The same on SQLite and on PostgreSQL."""
    made = Cloud(database, clock, tmp_path)
    yield made
    made.passwords.close()
