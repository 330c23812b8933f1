"""The API's server, and how it ends without a request being lost.

Told to end, a process that has peers lingers a moment: it answers as before, but each answer ends its
connection and `/healthz` says 503, so that clients and balancers go to another address by themselves.
Then it listens no more, answers what it has taken, and ends. A process without peers ends at once.
"""

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from cairn.core import log
from cairn.core.errors import CloudError
from cairn.host import certs
from cairn.wire import tls

_log = log.get("control.serving")
LINGER_S = 2.0  # a balancer that asks every second has seen it, and idle clients have left
CERTIFICATE_PERIOD_S = 6 * 3600.0  # between two looks at the API's certificate
_HEALTH = "/healthz"
_DRAINING = b'{"status":"draining"}'


class Server(uvicorn.Server):
    """`on_drain` is called on the event loop when the process is told to end."""

    def __init__(
        self, config: uvicorn.Config, *, door: "Door", has_peers: bool, on_drain: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._door = door
        self._has_peers = has_peers
        self._on_drain = on_drain
        self._loop: asyncio.AbstractEventLoop | None = None

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
