"""Clients of a measured cloud: real HTTP/1.1 over TLS on kept-alive connections, and a stop-watch."""

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from cairn.core.errors import Unavailable

ANSWER_S_MAX = 120.0


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.data) if self.data else None


class Timed(Struct, frozen=True, kw_only=True):
    """One request as its client saw it; `status` 0: no answer."""

    kind: str
    status: int
    began_s: float  # of the monotonic clock
    took_s: float


class Client:
    """Signed in as the administrator. Every request is remembered with its kind and time."""

    def __init__(self, root: str, *, authority: Path, connections: int) -> None:
        self.root = root
        self.timed: list[Timed] = []
        self.token = ""
        self._context = ssl.create_default_context(cafile=authority)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=self._connections, ssl=self._context, keepalive_timeout=60
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=ANSWER_S_MAX),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def sign_in(self, password: str) -> None:
        who = {"name": "admin", "domain": {"id": "default"}, "password": password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": who}}
        body = {"auth": {"identity": identity, "scope": scope}}
        answer = await self.must("POST", "/identity/v3/auth/tokens", body, kind="sign in")
        self.token = answer.headers["x-subject-token"]

    async def ask(self, method: str, path: str, body: Any = None, *, kind: str) -> Answer:
        """One request. Raises Unavailable when there is no answer; any status is one."""
        assert self._session is not None, "the client is not open"
        headers = {"accept": "application/json", "openstack-api-version": "compute 2.79"}
        if self.token:
            headers["x-auth-token"] = self.token
        data = None
        if isinstance(body, bytes):
            data, headers["content-type"] = body, "application/octet-stream"
        elif body is not None:
            data, headers["content-type"] = msgspec.json.encode(body), "application/json"
        began_s = time.monotonic()
        status = 0
        try:
            async with self._session.request(
                method, self.root + path, data=data, headers=headers
            ) as response:
                said = await response.read()
                status = response.status
                lower = {name.lower(): value for name, value in response.headers.items()}
                return Answer(status=status, headers=lower, data=said)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable("No answer from the API.", because=repr(error)) from error
        finally:
            took_s = time.monotonic() - began_s
            self.timed.append(Timed(kind=kind, status=status, began_s=began_s, took_s=took_s))

    async def must(self, method: str, path: str, body: Any = None, *, kind: str) -> Answer:
        """`ask`, where anything but success ends the run."""
        answer = await self.ask(method, path, body, kind=kind)
        if answer.status >= 300:
            said = answer.data.decode(errors="replace")[:500]
            raise Unavailable(f"{method} {path} was answered {answer.status}.", because=said)
        return answer

    async def statements(self) -> float:
        """SQL statements that the control process has run since it started, by its own count."""
        answer = await self.must("GET", "/metrics", kind="metrics")
        for line in answer.data.decode().splitlines():
            if line.startswith("cairn_sql_statements_total "):
                return float(line.split()[1])
        raise Unavailable("The control plane does not count its statements.")
