"""Connections that cannot be held for nothing: what comes in and goes out of each is bounded and timed.

uvicorn's protocol with the limits that it lacks. There are no timers: whoever serves looks at all
connections once a second (`Crowd.look`), and a request costs a few assignments.
"""

import fcntl
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cairn.core import log
from cairn.http.limits import Limits

Refusal = Callable[[str, int, str], tuple[bytes, Mapping[str, str]]]
"""(path, status, message) to body and headers, in the shape of the service that the path is of."""

_log = log.get("http.connections")
_LATE = "The request did not come in time."
_LONG = "The address is longer than {0.url_bytes_max} bytes."
_BIG = "The request's headers are larger than {0.head_bytes_max} bytes."
_MANY = "The request has more than {0.headers_max} headers."


class Crowd:
    """All connections of a process: how many there are of whom, and a look at each now and then."""

    def __init__(
        self,
        limits: Limits,
        *,
        refusal: Refusal,
        is_proxy: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self.limits = limits
        self.refusal = refusal
        self.refused: Counter[str] = Counter()  # by reason, for whoever counts
        self._is_proxy = is_proxy
        self._of: Counter[str] = Counter()
        self._all: set[Connection] = set()

    def __len__(self) -> int:
        return self._of.total()

    def enter(self, address: str) -> bool:
        """Whether one more from there is taken. At the limit, one that does nothing makes room."""
        if self._of.total() >= self.limits.connections_max and not self._make_room(None):
            self.refused["connections"] += 1
            return False
        if (
            self._of[address] >= self.limits.connections_per_address_max
            and not self._is_proxy(address)
            and not self._make_room(address)
        ):
            self.refused["connections of one address"] += 1
            return False
        self._of[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._of[address] -= 1
        if self._of[address] <= 0:
            del self._of[address]

    def take_in(self, connection: "Connection") -> None:
        self._all.add(connection)

    def let_go(self, connection: "Connection") -> None:
        self._all.discard(connection)

    def look(self) -> None:
        """End what has lasted for too long. Called once a second."""
        now = time.monotonic()
        for connection in tuple(self._all):
            connection.look(now)

    def _make_room(self, address: str | None) -> bool:
        idle = [c for c in self._all if c.idle_since and address in (None, c.address)]
        if not idle:
            return False
        min(idle, key=lambda c: c.idle_since or 0.0).drop()
        self.refused["idle, for another"] += 1
        return True


class Connection(HttpToolsProtocol):
    """One client's connection, from accepting it on."""

    def __init__(self, *words: Any, crowd: Crowd, address: str, **more: Any) -> None:
        super().__init__(*words, **more)
        self.address = address
        self._crowd = crowd
        self._limits = crowd.limits
        self._is_counted = True
        self.idle_since: float | None = None  # None: something is under way
        self._has_asked = False
        self._head_since: float | None = None  # None: not in a request's headers
        self._head_bytes = 0
        self._has_more = False  # of the request's body
        self._piece_at = 0.0  # when the last piece of it came
        self._ended: float | None = None  # when the last answer was complete
        self._stuck: tuple[float, int] | None = None  # since when, and how much was unsent then
        self._closing_since: float | None = None
        self._refused_at: float | None = None
        self._verdict: tuple[int, str] | None = None

    # --- what uvicorn calls ----------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        self._crowd.take_in(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.leave()

    def leave(self) -> None:
        """Be counted no more."""
        self._crowd.let_go(self)
        if self._is_counted:
            self._is_counted = False
            self._crowd.leave(self.address)

    def handle_websocket_upgrade(self) -> None:
        self.leave()  # It is another protocol's from here on.
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        # Unlike uvicorn's own, bytes that begin no request do not stop the clock.
        if self._refused_at is not None:
            return
        try:
            self._head_bytes += len(data)
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            status, message = self._verdict or (400, "This is no request of HTTP/1.1.")
            self._refuse(status, message)
            return
        if self._head_since is not None and self._head_bytes > self._limits.head_bytes_max:
            self._refuse(431, _BIG.format(self._limits))

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._has_asked = True
        self.idle_since = self._ended = None
        self._head_since = time.monotonic()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self._limits.url_bytes_max:
            self._forbid(414, _LONG.format(self._limits))

    def on_headers_complete(self) -> None:
        limits = self._limits
        if len(self.headers) > limits.headers_max:
            self._forbid(431, _MANY.format(limits))
        if self._head_bytes > limits.head_bytes_max:
            # More came at once than headers may have: most of it may be the body.
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.head_bytes_max:
                self._forbid(431, _BIG.format(limits))
        self._head_since = None
        self._has_more = True
        self._piece_at = time.monotonic()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._piece_at = time.monotonic()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_more = False
        self._head_bytes = 0
        if self._ended is not None:  # Its answer went out before its body was in.
            self.idle_since = time.monotonic()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # It was the answer to an earlier request; the last one is still coming in.
        self._ended = time.monotonic()
        if not self._has_more and not self.pipeline and self._head_since is None:
            self.idle_since = self._ended

    def resume_writing(self) -> None:
        self._stuck = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    # --- the limits ------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Whether it has lasted for too long."""
        limits = self._limits
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > limits.farewell_s:
                self.transport.abort()
        elif self._refused_at is not None:
            if now - self._refused_at > 1.0:
                self.end()
        elif self._head_since is not None and now - self._head_since > limits.head_s:
            self._crowd.refused["slow headers"] += 1
            self._refuse(408, _LATE)
        elif not self._has_asked and self.idle_since and now - self.idle_since > limits.head_s:
            self._crowd.refused["no request"] += 1
            self.end()
        elif self._has_more and self._ended and now - self._ended > limits.leftover_s:
            self._crowd.refused["slow body"] += 1
            self.end()
        elif (
            self._has_more
            and self._ended is None
            and now - self._piece_at > limits.body_stall_s
            and not self.flow.read_paused
        ):
            self._crowd.refused["slow body"] += 1
            self._give_up_on_body()
        elif self.flow.write_paused:
            self._look_at_reader(now)

    def end(self) -> None:
        """Close it; what was written is still sent, for a while."""
        self._unset_keepalive_if_required()
        self.idle_since = None
        if not self.transport.is_closing():
            self.transport.close()

    def _give_up_on_body(self) -> None:
        cycle = self.cycle
        if cycle.response_started:
            self.end()
        else:
            self._refuse(408, _LATE, instead=True)
        cycle.disconnected = True  # Whoever waits for the body hears that it does not come.
        cycle.message_event.set()

    def drop(self) -> None:
        """Close it at once: nothing is under way."""
        self._unset_keepalive_if_required()
        self.idle_since = None
        self.transport.abort()

    def _look_at_reader(self, now: float) -> None:
        unsent = self._unsent()
        if self._stuck is None:
            self._stuck = (now, unsent)
            return
        since, before = self._stuck
        if now - since < self._limits.stall_s:
            return
        if before - unsent < self._limits.stall_bytes_min:
            self._crowd.refused["slow reader"] += 1
            _log.info("client does not take its answer", address=self.address, unsent=unsent)
            self.transport.abort()
        self._stuck = (now, unsent)

    def _unsent(self) -> int:
        """Bytes that the client has not taken, in our memory and in the kernel's: from a slow client's
        few bytes at a time, the kernel makes one jump of megabytes."""
        held = self.transport.get_write_buffer_size()
        try:
            own = self.transport.get_extra_info("socket").fileno()
            told = fcntl.ioctl(own, termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, AttributeError):
            return int(held)
        return int(held) + int.from_bytes(told, sys.byteorder)

    def _forbid(self, status: int, message: str) -> None:
        """Stop the parser, from one of its own calls."""
        self._verdict = (status, message)
        raise ValueError(message)

    def _refuse(self, status: int, message: str, *, instead: bool = False) -> None:
        """Answer what never became a request, and end. What still comes is thrown away for a moment: a
        connection closed over unread bytes would take the answer with it. `instead` of the application."""
        self._refused_at = time.monotonic()
        self._head_since = None
        self._unset_keepalive_if_required()
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete and not instead:
            self.end()  # An answer to an earlier request is under way: there is no place for this one.
            return
        self._crowd.refused[f"status {status}"] += 1
        path = self.url.split(b"?")[0].decode("latin-1") if getattr(self, "url", b"") else ""
        body, headers = self._crowd.refusal(path, status, message)
        lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        self.transport.write(
            b"".join(
                [
                    STATUS_LINE[status],
                    *lines,
                    b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
                    body,
                ]
            )
        )


def plain(path: str, status: int, message: str) -> tuple[bytes, Mapping[str, str]]:
    """A refusal for servers without services."""
    body = msgspec.json.encode({"error": {"code": status, "message": message}})
    return body, {"content-type": "application/json"}
