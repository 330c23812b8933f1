"""An API client that costs the server what any client does: one connection that is kept alive."""

import http.client
import json
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: tuple[tuple[str, str], ...]
    data: bytes
    seconds: float

    @property
    def body(self) -> Any:
        return json.loads(self.data) if self.data else None


class Client:
    """`Client("https://127.0.0.1:8443", authority=Path("ca.crt"))`; plain where the address says so."""

    def __init__(self, root: str, *, authority: Path | None = None) -> None:
        parts = urlsplit(root)
        assert parts.hostname is not None
        self.root = root
        self._authority = authority
        self.token = ""
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=authority)
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, context=context, timeout=120
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def sign_in(self, password: str, *, project: str = "admin", user: str = "admin") -> None:
        answer = self.must(
            "POST", "/identity/v3/auth/tokens", sign_in_body(password, project, user)
        )
        self.token = dict(answer.headers)["x-subject-token"]

    def again(self) -> "Client":
        """Another connection, signed in with the same token."""
        made = Client(self.root, authority=self._authority)
        made.token = self.token
        return made

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; `headers` as keywords with underscores."""
        sent = {"accept": "application/json", "openstack-api-version": "compute 2.79"}
        if self.token:
            sent["x-auth-token"] = self.token
        data = None
        if isinstance(body, bytes):
            data, sent["content-type"] = body, "application/octet-stream"
        elif body is not None:
            data, sent["content-type"] = json.dumps(body).encode(), "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        began = time.perf_counter()
        try:
            self._connection.request(method, path, body=data, headers=sent)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            # Kept alive for too long. A new connection is made; a second failure is a real one.
            self._connection.close()
            self._connection.request(method, path, body=data, headers=sent)
            answer = self._connection.getresponse()
        said = answer.read()
        return Answer(
            status=answer.status,
            headers=tuple((name.lower(), value) for name, value in answer.getheaders()),
            data=said,
            seconds=time.perf_counter() - began,
        )

    def must(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`ask`, where anything but success ends the benchmark."""
        answer = self.ask(method, path, body, **headers)
        if answer.status >= 300:
            said = answer.data.decode(errors="replace")[:500]
            raise SystemExit(f"bench: {method} {path} was answered {answer.status}: {said}")
        return answer

    def statements(self) -> float:
        """SQL statements that the control plane has run so far, by its own count."""
        text = self.must("GET", "/metrics").data.decode()
        lines = [
            line for line in text.splitlines() if line.startswith("cairn_sql_statements_total ")
        ]
        return float(lines[0].split()[1])


def sign_in_body(password: str, project: str, user: str) -> dict[str, Any]:
    who = {"name": user, "domain": {"id": "default"}, "password": password}
    return {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": who}},
            "scope": {"project": {"name": project, "domain": {"id": "default"}}},
        }
    }
