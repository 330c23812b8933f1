"""The connection between an agent and the control plane: framed msgpack, opened by the agent.

A frame is four bytes of length (big-endian) and one tagged record. The first frame from the agent is
`Hello`, and its kind says what the connection is for: the node's own stream, the bytes of an image, or
a guest's screen. After `Go` the latter two carry raw bytes.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Protocol

import msgspec
from msgspec import Struct

from cairn.core.errors import Invalid, Unavailable
from cairn.core.ids import ImageId, NodeId, ServerId
from cairn.wire import tls
from cairn.wire.report import NodeReport
from cairn.wire.spec import NodeSpec

WIRE_VERSION = 2
OLDEST_WIRE_VERSION = 1  # that is still understood: one before ours
FRAME_BYTES_MAX = 64 << 20  # a zone of some 100,000 ports; anything larger is an attack or a bug
PING_PERIOD_S = 5.0  # the agent says something at least this often
CONGESTED_BYTES = 1 << 20  # not taken by the other side: what may wait should
# The kernel asks a silent peer whether it is there: a dead host is noticed without a word of ours.
KEEPALIVE_IDLE_S, KEEPALIVE_PERIOD_S, KEEPALIVE_COUNT = 10, 3, 3
SILENCE_S = 20.0  # after this much silence a side takes the connection for dead


class Hello(Struct, frozen=True, kw_only=True, tag=True):
    """First frame of the agent."""

    wire_version: int
    node_id: NodeId
    agent_version: str = ""
    kind: str = "node"  # "node", "image" or "screen"; "left": removed, and all is cleaned up
    subject: str = ""  # the image's id, or the screen's one-time key
    spec_number: int = 0  # that the agent works by: it need not be sent again
    report_digest: bytes = b""  # of what it has to tell: known news need not be told again


class Welcome(Struct, frozen=True, kw_only=True, tag=True):
    """The control plane accepts; the agent's reports are numbered from `report_base` upwards."""

    report_base: int
    wire_version: int = 1  # that both speak from here on
    ping_period_s: float = PING_PERIOD_S  # how often the agent must speak
    wants_report: bool = True  # False: what Hello's digest stands for is known already
    now_s: float = 0.0  # the control plane's clock, seconds since the epoch; 0: not told


class Refused(Struct, frozen=True, kw_only=True, tag=True):
    """The control plane does not; `reason` is for the host's operator."""

    reason: str
    is_removed: bool = False  # the host is no member any more: it should clean up, then say "left"
    oldest_wire_version: int = 0  # that the control plane speaks; 0: that is not the reason
    newest_wire_version: int = 0


class Go(Struct, frozen=True, kw_only=True, tag=True):
    """Raw bytes follow; `size_bytes` of them, or until the end when -1."""

    size_bytes: int = -1


class Spec(Struct, frozen=True, kw_only=True, tag=True):
    spec: NodeSpec


class Confirmed(Struct, frozen=True, kw_only=True, tag=True):
    """The spec of this number, which the agent has, is what should be. Stands for the `Spec` itself."""

    number: int


class Report(Struct, frozen=True, kw_only=True, tag=True):
    report: NodeReport


class Renew(Struct, frozen=True, kw_only=True, tag=True):
    """The agent's certificate nears its end: a request (PEM, PKCS #10) for the next, of a new key."""

    request: bytes


class Renewed(Struct, frozen=True, kw_only=True, tag=True):
    """The node's next certificate (PEM), and all authorities to believe from now on."""

    certificate: bytes
    authorities: bytes


class Ping(Struct, frozen=True, kw_only=True, tag=True):
    """Sent by the agent, sent back by the control plane: both know that the other lives."""


class ConsoleLog(Struct, frozen=True, kw_only=True, tag=True):
    server_id: ServerId
    lines: int | None = None


class OpenScreen(Struct, frozen=True, kw_only=True, tag=True):
    """Open a second connection of kind "screen" under `key` and join it to the guest's screen."""

    server_id: ServerId
    key: str


Asked = ConsoleLog | OpenScreen


class Question(Struct, frozen=True, kw_only=True, tag=True):
    """Something that only the host knows. Questions change nothing."""

    number: int
    ask: Asked


class Answer(Struct, frozen=True, kw_only=True, tag=True):
    number: int
    data: bytes = b""
    refused: str = ""  # why there is no answer


Frame = (
    Hello
    | Welcome
    | Refused
    | Go
    | Spec
    | Confirmed
    | Report
    | Ping
    | Renew
    | Renewed
    | Question
    | Answer
)

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Frame)


def decode(data: bytes) -> Frame:
    """One frame; msgspec.DecodeError if it is none."""
    frame: Frame = _decoder.decode(data)
    return frame


class Link(Protocol):
    """One connection, as both sides use it; the simulator has its own."""

    async def send(self, frame: Frame) -> None:
        """Unavailable when the connection is gone."""
        ...

    def post(self, frame: Frame) -> None:
        """Send without waiting until it is on its way; for those who look at `is_congested` first."""
        ...

    @property
    def is_congested(self) -> bool:
        """Whether the other side takes less than it is given."""
        ...

    async def receive(self, silence_s: float | None = SILENCE_S) -> Frame:
        """The next frame; Unavailable when the connection is gone, or silent for `silence_s`."""
        ...

    def close(self) -> None: ...


class StreamLink:
    """A `Link` over asyncio streams. `reader` and `writer` are for the raw bytes after `Go`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        _keep_alive(writer)

    def post(self, frame: Frame) -> None:
        data = encode(frame)
        if self.writer.is_closing():
            raise Unavailable("The connection is gone.")
        self.writer.write(len(data).to_bytes(4, "big") + data)

    @property
    def is_congested(self) -> bool:
        return self.writer.transport.get_write_buffer_size() > CONGESTED_BYTES

    async def send(self, frame: Frame) -> None:
        try:
            self.post(frame)
            async with asyncio.timeout(SILENCE_S):
                await self.writer.drain()
        except (OSError, TimeoutError) as error:
            raise Unavailable("The connection is gone.", because=repr(error)) from error

    async def receive(self, silence_s: float | None = SILENCE_S) -> Frame:
        try:
            async with asyncio.timeout(silence_s):
                size = int.from_bytes(await self.reader.readexactly(4), "big")
                if size > FRAME_BYTES_MAX:
                    raise Invalid(f"A frame of {size} bytes is larger than {FRAME_BYTES_MAX}.")
                data = await self.reader.readexactly(size)
        except (OSError, EOFError, TimeoutError) as error:
            why = tls.why_failed(error) or repr(error)
            raise Unavailable("The connection is gone.", because=why) from error
        try:
            return decode(data)
        except msgspec.DecodeError as error:
            raise Invalid("A frame could not be understood.", because=str(error)) from error

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.close()

    def peer_node_id(self) -> NodeId | None:
        """The node that the peer's certificate was made out to; None without one."""
        certificate = self.writer.get_extra_info("peercert") or {}
        for kind, value in certificate.get("subjectAltName", ()):
            if kind == "URI" and value.startswith("cairn:node:"):
                return NodeId(value.removeprefix("cairn:node:"))
        return None


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    transport_socket = writer.get_extra_info("socket")
    if transport_socket is None or transport_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    silence_ms = 1000 * (KEEPALIVE_IDLE_S + KEEPALIVE_PERIOD_S * KEEPALIVE_COUNT)
    transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.TCP_KEEPINTVL, KEEPALIVE_PERIOD_S),
        (socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
        (socket.TCP_USER_TIMEOUT, silence_ms),
    ):
        transport_socket.setsockopt(socket.IPPROTO_TCP, option, value)


async def connect(host: str, port: int, context: ssl.SSLContext) -> StreamLink:
    """Open a connection to the control plane's node port."""
    try:
        async with asyncio.timeout(SILENCE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError, ssl.SSLError) as error:
        raise Unavailable(
            f"The control plane at {host}:{port} cannot be reached.",
            because=tls.why_failed(error) or repr(error),
        ) from error
    return StreamLink(reader, writer)


def wanted_image(hello: Hello) -> ImageId:
    return ImageId(hello.subject)
