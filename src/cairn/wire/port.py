"""The node port: takes TLS connections in turn, a few handshakes at a time.

`asyncio.start_server` begins as many handshakes as connections come. When ten thousand hosts come at
once, each would last until all are done, and both sides would give up before. Here the others wait in the
kernel's queue, and whoever is taken is through within milliseconds.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

from cairn.core import log
from cairn.core.tasks import TaskGroup

HANDSHAKES_MAX = 32  # under way at once
HANDSHAKE_S = 10.0  # after which a peer that does not go on is given up

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_log = log.get("wire.port")


class Port:
    """One listening socket. `accept` serves a connection to its end, as for `asyncio.start_server`."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, accept: Accept) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._accept = accept
        self._tasks = TaskGroup()
        self._turns = asyncio.Semaphore(HANDSHAKES_MAX)
        self._taking = self._tasks.start(self._take(), name="node port")

    def close(self) -> None:
        """Take no more connections; those that are served go on."""
        self._taking.cancel()
        self._listener.close()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._turns.acquire()
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # Out of file descriptors, or the peer is gone already.
                self._turns.release()
                _log.warning("connection not taken", because=repr(error))
                await asyncio.sleep(0.1)
                continue
            self._tasks.start(self._greet(connection), name="handshake")

    async def _greet(self, connection: socket.socket) -> None:
        """The handshake; what follows is served by a task of its own."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._accept, loop=loop)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, ssl.SSLError, ConnectionError) as error:
            _log.info("handshake failed", because=repr(error))
            with contextlib.suppress(OSError):
                connection.close()
        finally:
            self._turns.release()


def listen(address: str, port: int, *, backlog: int) -> socket.socket:
    """A listening TCP socket, on IPv6 as well where the address is of that kind or empty."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=backlog)
