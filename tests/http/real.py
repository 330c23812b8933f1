"""A real control process over TLS, and raw connections to it, for tests of what no good client does."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cairn.db.engine import open_sqlite
from tests.control.rig import Control, make_tables

# As `cairn control`, but less patient: a test must not take minutes.
LIMITS = {
    "head_s": 2.0, "handshake_s": 2.0, "idle_s": 3, "body_stall_s": 2.0, "leftover_s": 2.0,
    "farewell_s": 2.0, "stall_s": 2.0,
}  # fmt: skip
PROGRAM = """
import json
import sys
from pathlib import Path
from cairn import app, settings
from cairn.http import limits
state = Path(sys.argv[1])
app.Limits = lambda: limits.Limits(**json.loads(sys.argv[2]))
limits.BODY_S = 2.0
(state / "pages").mkdir(exist_ok=True)
app.run_control(settings.load(state), pages=state / "pages")
"""


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.data)


class Server(Control):
    """One control process over a file. `ask` is an ordinary client, `connect` anybody."""

    def __init__(self, state: Path, limits: Mapping[str, float] = LIMITS, **words: Any) -> None:
        super().__init__(state, **words)
        self.limits = dict(limits)
        self.prepare()
        database = open_sqlite(self.settings.control_dir / "cairn.db")
        make_tables(database)
        database.close()
        self.token = ""
        self._context = ssl.create_default_context(cafile=self.settings.certs_dir / "ca.crt")

    def start(self) -> None:
        with (self.state / "control.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.state), json.dumps(self.limits)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )
        deadline = time.monotonic() + 40
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            try:
                if self.ask("GET", "/healthz").status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        password = (self.settings.credentials_dir / "admin-password").read_text().strip()
        self.token = self.sign_in(password).headers["x-subject-token"]

    def sign_in(self, password: str) -> Answer:
        user = {"name": "admin", "domain": {"id": "default"}, "password": password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        auth = {"auth": {"identity": identity, "scope": scope}}
        return self.ask("POST", "/identity/v3/auth/tokens", auth)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """As an ordinary client, over a connection of its own."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent.setdefault("x-auth-token", self.token)
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        if body is not None:
            sent.setdefault("content-type", "application/json")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.api_port, context=self._context, timeout=20
        )
        try:
            connection.request(method, path, data, sent)
            return read(connection.sock)  # http.client gives up on an answer before the body's end
        finally:
            connection.close()

    def connect(self, *, buffer: int = 0) -> ssl.SSLSocket:
        bare = socket.socket()
        if buffer:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        bare.settimeout(20)
        bare.connect(("127.0.0.1", self.api_port))
        return self._context.wrap_socket(bare, server_hostname="127.0.0.1")

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """The head of a request, with the token."""
        start = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Auth-Token: {self.token}\r\n"
        return (start + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def read(connection: Any) -> Answer:
    """The next answer on the connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    data = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, data)


def seconds_until_closed(connection: ssl.SSLSocket, within_s: float) -> float:
    """How long the other side keeps it open; what it says is thrown away."""
    began = time.monotonic()
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except (ConnectionError, ssl.SSLError, TimeoutError) as error:
        assert not isinstance(error, TimeoutError), f"still open after {within_s} s"
    return time.monotonic() - began


@contextmanager
def running(state: Path, **words: Any) -> Iterator[Server]:
    server = Server(state, **words)
    server.start()
    try:
        yield server
    finally:
        server.kill()
