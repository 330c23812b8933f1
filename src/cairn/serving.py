"""The API's server, and how it ends without a request being lost.

Told to end, a process that has peers lingers a moment: it answers as before, but each answer ends its
connection and `/healthz` says 503, so that clients and balancers go to another address by themselves.
Then it listens no more, answers what it has taken, and ends. A process without peers ends at once.

Connections are accepted here and not by the event loop's own server, so that each is counted, and timed,
before its TLS handshake: http/connections.py.
"""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from cairn.core import log
from cairn.core.errors import CloudError
from cairn.core.tasks import TaskGroup
from cairn.host import certs
from cairn.http.connections import Connection, Crowd
from cairn.wire import port, tls

_log = log.get("control.serving")
LINGER_S = 2.0  # a balancer that asks every second has seen it, and idle clients have left
CERTIFICATE_PERIOD_S = 6 * 3600.0  # between two looks at the API's certificate
BACKLOG = 2048
LOOK_TICKS = 10  # uvicorn ticks ten times a second
_HEALTH = "/healthz"
_DRAINING = b'{"status":"draining"}'


class Gate:
    """Listens, counts who comes, shakes hands. uvicorn closes it as a server of its own."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        context: ssl.SSLContext | None,
        crowd: Crowd,
        make: Callable[[str], Connection],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._crowd = crowd
        self._make = make
        self._tasks = TaskGroup()
        self._taking = self._tasks.start(self._take(), name="API port")

    def close(self) -> None:
        """Take no more connections; those that are served go on."""
        self._taking.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        await self._tasks.close()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:  # Out of file descriptors, or the peer is gone already.
                _log.warning("connection not taken", because=repr(error))
                await asyncio.sleep(0.1)
                continue
            if self._crowd.enter(address[0]):
                self._tasks.start(self._greet(connection, address[0]), name="API handshake")
            else:
                connection.close()

    async def _greet(self, connection: socket.socket, address: str) -> None:
        protocol = self._make(address)
        handshake_s = self._crowd.limits.handshake_s if self._context else None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=handshake_s,
            )
        except (OSError, ssl.SSLError) as error:
            _log.debug("handshake failed", because=repr(error))
            protocol.leave()
            with contextlib.suppress(OSError):
                connection.close()
        except BaseException:
            protocol.leave()
            raise


class Server(uvicorn.Server):
    """`on_drain` is called on the event loop when the process is told to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        door: "Door",
        crowd: Crowd,
        has_peers: bool,
        on_drain: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._door = door
        self._crowd = crowd
        self._has_peers = has_peers
        self._on_drain = on_drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        """Instead of uvicorn's, which leaves accepting to the event loop."""
        await self.lifespan.startup()
        listener = port.listen(self.config.host, self.config.port, backlog=BACKLOG)
        gate = Gate(listener, context=self.config.ssl, crowd=self._crowd, make=self._connection)
        self.servers = [gate]  # type: ignore[list-item]
        self.started = True

    def _connection(self, address: str) -> Connection:
        return Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            crowd=self._crowd,
            address=address,
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % LOOK_TICKS == 0:
            self._crowd.look()
        return await super().on_tick(counter)

    async def serve(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come. Not left to uvicorn, which would raise it again at its own end: before the
        rest of the process has ended in order."""
        if self.should_exit:
            self.force_exit = True  # Somebody is in a hurry.
        elif not self._has_peers or self._door.is_draining or self._loop is None:
            self.should_exit = True
        else:
            self._door.is_draining = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        assert self._loop is not None
        self._on_drain()
        self._loop.call_later(LINGER_S, self._end)

    def _end(self) -> None:
        self.should_exit = True


class Door:
    """The ASGI application behind a door that can be closed softly."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.is_draining = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.is_draining or scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_last(event: Any) -> None:
            if event["type"] == "http.response.start":
                headers = [*event.get("headers", ()), (b"connection", b"close")]
                event = {**event, "headers": headers}
            await send(event)

        if scope["path"] == _HEALTH:
            await _say_draining(send_last)
        else:
            await self._app(scope, receive, send_last)


async def _say_draining(send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _DRAINING})


async def keep_certificate(
    folder: Path, also: tuple[str, ...], contexts: Callable[[], Iterable[ssl.SSLContext]]
) -> None:
    """Renew the API's certificate before it ends, and take it into use for connections from then on.
    For ever."""
    where = certs.paths(folder)
    while True:
        await asyncio.sleep(CERTIFICATE_PERIOD_S)
        try:
            if await asyncio.to_thread(certs.renew_server, folder, also=also):
                for context in contexts():
                    tls.load_pair(context, where.server, where.server_key)
                _log.info("the API's certificate was renewed")
        except (CloudError, OSError, subprocess.SubprocessError) as error:
            _log.error("the API's certificate was not renewed", error=str(error))
