"""The other control processes: questions to hosts that are connected to them, and bytes that they hold.

A peer proves itself on the node port by a certificate that names a control process (wire/tls.py); what it
may then open is the first frame's kind: "ask" a host, join a guest's "screen", fetch a "file" of the
images' folder. A connection serves one of these and ends. Nothing is forwarded twice: who is asked by a
peer answers from its own connections.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from cairn.core import log
from cairn.core.errors import CloudError, Invalid, NotFound, Unavailable
from cairn.core.ids import NodeId, ServerId
from cairn.core.tasks import first_to_end
from cairn.db.engine import Database
from cairn.fleet import control_store
from cairn.fleet.ask import ANSWER_SECONDS_MAX
from cairn.fleet.control_store import Control
from cairn.wire.link import (
    WIRE_VERSION,
    Answer,
    Asked,
    Frame,
    Go,
    Hello,
    Question,
    Refused,
    StreamLink,
)

CHUNK_BYTES = 1 << 20
FORWARDED_SECONDS_MAX = ANSWER_SECONDS_MAX + 5.0  # the peer gives up first, and says why
FILE_SILENCE_S = 30.0

Connect = Callable[[str], Awaitable[StreamLink]]
"""To a peer's node port, "host:port"; raises Unavailable."""

_log = log.get("fleet.peers")


class Hosts(Protocol):
    """What fleet/stream.py does for the hosts that are connected to this process."""

    def is_connected(self, node_id: NodeId) -> bool: ...

    async def ask(self, node_id: NodeId, asked: Asked) -> bytes: ...

    def screen(
        self, node_id: NodeId, server_id: ServerId
    ) -> AbstractAsyncContextManager[StreamLink]: ...


class Peers:
    """Reaches every host, whichever control process it is connected to."""

    def __init__(
        self,
        database: Database,
        hosts: Hosts,
        *,
        control_id: str | None,
        connect: Connect | None,
        files: Path,
    ) -> None:
        """`connect` is None where there is one control process. `files`: the images' folder."""
        self._database = database
        self._hosts = hosts
        self._control_id = control_id
        self._connect = connect
        self._files = files
        self._fetching: dict[str, asyncio.Task[bool]] = {}

    async def ask(self, node_id: NodeId, asked: Asked) -> bytes:
        """See fleet/ask.py."""
        address = await self._address_for(node_id)
        if address is None:
            return await self._hosts.ask(node_id, asked)
        async with self._opened(address, _hello(node_id, kind="ask")) as link:
            await link.send(Question(number=1, ask=asked))
            frame = await link.receive(FORWARDED_SECONDS_MAX)
            if not isinstance(frame, Answer):
                raise _refusal(frame)
            if frame.refused:
                raise NotFound(frame.refused)
            return frame.data

    @asynccontextmanager
    async def screen(self, node_id: NodeId, server_id: ServerId) -> AsyncIterator[StreamLink]:
        """A byte stream to the guest's screen (RFB)."""
        address = await self._address_for(node_id)
        if address is None:
            async with self._hosts.screen(node_id, server_id) as link:
                yield link
            return
        hello = _hello(node_id, kind="screen", subject=server_id)
        async with self._opened(address, hello) as link:
            frame = await link.receive(FORWARDED_SECONDS_MAX)
            if not isinstance(frame, Go):
                raise _refusal(frame)
            yield link

    async def fetch(self, name: str, *, size_bytes: int, sha256: str) -> bool:
        """Bring a file of the images' folder here from whichever peer has it; False if none has.

        Who asks for the same file meanwhile waits for the one that comes.
        """
        if self._connect is None:
            return False
        task = self._fetching.get(name)
        if task is None:
            task = asyncio.create_task(
                self._fetch(name, size_bytes=size_bytes, sha256=sha256), name=f"fetch {name}"
            )
            self._fetching[name] = task
            task.add_done_callback(lambda _: self._fetching.pop(name, None))
        return await asyncio.shield(task)

    async def serve(self, link: StreamLink) -> None:
        """Serve one connection of a peer, whose certificate was checked, to its end."""
        hello = await link.receive()
        if not isinstance(hello, Hello):
            raise Invalid("The first frame must be Hello.")
        try:
            match hello.kind:
                case "ask":
                    await self._serve_question(link, hello)
                case "screen":
                    await self._serve_screen(link, hello)
                case "file":
                    await self._serve_file(link, hello)
                case other:
                    await link.send(Refused(reason=f"Peers are not served '{other}'."))
        except Unavailable as error:
            await link.send(Refused(reason=error.message))

    async def _address_for(self, node_id: NodeId) -> str | None:
        """Where the host's agent is connected; None: here, or nowhere that is known."""
        if self._connect is None or self._hosts.is_connected(node_id):
            return None
        control = await self._database.read(lambda tx: control_store.controller_of(tx, node_id))
        if control is None or control.id == self._control_id:
            return None
        return control.address

    @asynccontextmanager
    async def _opened(self, address: str, hello: Hello) -> AsyncIterator[StreamLink]:
        assert self._connect is not None
        link = await self._connect(address)
        try:
            await link.send(hello)
            yield link
        finally:
            link.close()

    async def _serve_question(self, link: StreamLink, hello: Hello) -> None:
        question = await link.receive()
        if not isinstance(question, Question):
            raise Invalid("A question must follow.")
        try:
            data = await self._hosts.ask(hello.node_id, question.ask)
        except NotFound as error:
            await link.send(Answer(number=question.number, refused=error.message))
            return
        await link.send(Answer(number=question.number, data=data))

    async def _serve_screen(self, link: StreamLink, hello: Hello) -> None:
        async with self._hosts.screen(hello.node_id, ServerId(hello.subject)) as guest:
            await link.send(Go())
            await _join(link, guest)

    async def _serve_file(self, link: StreamLink, hello: Hello) -> None:
        if not hello.subject or Path(hello.subject).name != hello.subject:
            raise Invalid("A file's name has no folder in it.")
        try:
            file = await asyncio.to_thread((self._files / hello.subject).open, "rb")
        except OSError:
            await link.send(Refused(reason="There is no such file here."))
            return
        with file:
            await link.send(Go(size_bytes=os.fstat(file.fileno()).st_size))
            with contextlib.suppress(OSError):
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    link.writer.write(chunk)
                    await link.writer.drain()

    async def _fetch(self, name: str, *, size_bytes: int, sha256: str) -> bool:
        for peer in await self._database.read(control_store.all_controls):
            if peer.id == self._control_id:
                continue
            try:
                if await self._fetch_from(peer, name, size_bytes, sha256):
                    return True
            except (CloudError, OSError) as error:
                _log.warning("file not fetched", file=name, peer=peer.name, because=str(error))
        return False

    async def _fetch_from(self, peer: Control, name: str, size_bytes: int, sha256: str) -> bool:
        target = self._files / name
        part = target.with_name(f"{name}.part")
        hello = _hello(NodeId(""), kind="file", subject=name)
        async with self._opened(peer.address, hello) as link:
            if not isinstance(await link.receive(), Go):
                return False
            try:
                digest = await _receive(link, part, size_bytes)
                if digest != sha256:
                    raise Unavailable(f"The file {name} came damaged.")
                part.rename(target)
            finally:
                part.unlink(missing_ok=True)
        _log.info("file fetched", file=name, peer=peer.name)
        return True


def _hello(node_id: NodeId, *, kind: str, subject: str = "") -> Hello:
    return Hello(wire_version=WIRE_VERSION, node_id=node_id, kind=kind, subject=subject)


def _refusal(frame: Frame) -> CloudError:
    reason = frame.reason if isinstance(frame, Refused) else "The control process did not answer."
    return Unavailable(reason)


async def _receive(link: StreamLink, part: Path, size_bytes: int) -> str:
    """Write what comes; its SHA-256. Raises Unavailable when less comes than there should be."""
    digest = hashlib.sha256()
    left = size_bytes
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        while left > 0:
            try:
                async with asyncio.timeout(FILE_SILENCE_S):
                    chunk = await link.reader.read(min(CHUNK_BYTES, left))
            except TimeoutError as error:
                raise Unavailable("The peer has fallen silent.") from error
            if not chunk:
                raise Unavailable("The peer's file is shorter than it should be.")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
            left -= len(chunk)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest()


async def _join(one: StreamLink, other: StreamLink) -> None:
    """Carry bytes both ways until either side ends."""
    await first_to_end(("screen out", _carry(one, other)), ("screen in", _carry(other, one)))


async def _carry(source: StreamLink, target: StreamLink) -> None:
    with contextlib.suppress(OSError):
        while data := await source.reader.read(CHUNK_BYTES):
            target.writer.write(data)
            await target.writer.drain()
