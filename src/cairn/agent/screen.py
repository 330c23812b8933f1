"""Bringing a guest's screen to the control plane: a second connection, joined to the guest's VNC socket."""

import asyncio
import contextlib

from cairn.agent.images import Connect
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import TaskGroup, first_to_end
from cairn.drivers.contracts import Hypervisor
from cairn.wire.link import WIRE_VERSION, Go, Hello, OpenScreen

CHUNK_BYTES = 64 << 10


class Screens:
    def __init__(self, *, node_id: NodeId, hypervisor: Hypervisor, connect: Connect) -> None:
        self._node_id = node_id
        self._hypervisor = hypervisor
        self._connect = connect
        self._tasks = TaskGroup()

    async def open(self, wish: OpenScreen) -> None:
        """Return when the bytes flow. NotFound if the guest does not run, Unavailable if it is dumb."""
        path = self._hypervisor.vnc_socket(wish.server_id)
        try:
            guest = await asyncio.open_unix_connection(str(path))
        except OSError as error:
            raise Unavailable("The guest's screen does not answer.", because=repr(error)) from error
        link = await self._connect()
        await link.send(
            Hello(wire_version=WIRE_VERSION, node_id=self._node_id, kind="screen", subject=wish.key)
        )
        if not isinstance(await link.receive(), Go):
            link.close()
            guest[1].close()
            raise Unavailable("The control plane does not wait for this screen any more.")
        self._tasks.start(self._join(guest, (link.reader, link.writer)), name="screen")

    async def close(self) -> None:
        await self._tasks.close()

    async def _join(
        self,
        one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Until either side ends."""
        try:
            await first_to_end(
                ("screen out", pump(one[0], other[1])), ("screen in", pump(other[0], one[1]))
            )
        finally:
            for _, writer in (one, other):
                writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes one way until the end; a broken connection is an end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
