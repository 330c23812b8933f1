"""Callers for tests, and a client that speaks to services in process as one of them."""

from typing import Any

import falcon.testing
import msgspec

from cairn.core.caller import Caller
from cairn.core.errors import Unauthenticated
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Database
from cairn.http.routes import Service
from cairn.http.shell import Shell


def caller(name: str, project: str, *roles: str, is_admin: bool = False) -> Caller:
    return Caller(
        user_id=UserId(name),
        project_id=ProjectId(project),
        roles=frozenset(roles),
        is_admin=is_admin,
    )


P1 = "11111111111111111111111111111111"
P2 = "22222222222222222222222222222222"
CALLERS = {
    "alice": caller("alice", P1, "member", "reader"),
    "rita": caller("rita", P1, "reader"),
    "bob": caller("bob", P2, "member", "reader"),
    "mallory": caller("mallory", P2),  # a token with no role at all
    "admin": caller("admin", "a" * 32, "admin", "manager", "member", "reader", is_admin=True),
}
"""By token. alice and rita are of project P1, bob of P2."""


class Api:
    """`Api(database, SERVICE).get("/volume/v3/...", who="alice").json`"""

    def __init__(self, database: Database, *services: Service, **shell: Any) -> None:
        """`shell`: what else it is told, such as `policies`."""
        self.shell = Shell(services=services, database=database, authenticate=_by_name, **shell)
        self.client = falcon.testing.TestClient(self.shell.app)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = "alice",
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """A falcon.testing.Result: `.status_code`, `.json`, `.headers`, `.content`."""
        sent = dict(headers or {})
        if who is not None:
            sent["X-Auth-Token"] = who
        data: bytes | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent["Content-Type"] = content_type
        bare, _, query = path.partition("?")
        return self.client.simulate_request(
            method, bare, query_string=query, headers=sent, body=data
        )

    def get(self, path: str, **options: Any) -> Any:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("POST", path, body, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("PUT", path, body, **options)

    def patch(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("PATCH", path, body, **options)

    def delete(self, path: str, **options: Any) -> Any:
        return self.call("DELETE", path, **options)


def _by_name(token: str) -> Caller:
    if token not in CALLERS:
        raise Unauthenticated("The token is not valid.")
    return CALLERS[token]
