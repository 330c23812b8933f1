"""169.254.169.254: answers guests out of the host's own spec, with or without the control plane.

Each network has a socket of its own inside the network, so the asker's address names the guest without
any header that a guest could forge.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence

from aiohttp import web

from cairn.agent import metadata
from cairn.core import log
from cairn.core.ids import NetworkId
from cairn.drivers.contracts import MetadataSocket
from cairn.wire.spec import GuestSpec, PortSpec

GuestAt = Callable[[NetworkId, str], tuple[GuestSpec, Sequence[PortSpec]] | None]
"""Which guest has an address in a network, with its ports in order."""

_log = log.get("agent.metadata")


class SocketMetadataServer:
    def __init__(self, guest_at: GuestAt) -> None:
        self._guest_at = guest_at
        self._doors: dict[NetworkId, asyncio.Server] = {}

    @property
    def served(self) -> frozenset[NetworkId]:
        return frozenset(self._doors)

    async def serve(self, network_id: NetworkId, socket: MetadataSocket) -> None:
        """Answer on a listening socket until `stop`."""
        await self.stop(network_id)

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return self._answer(network_id, request)

        server = web.Server(answer, access_log=None)
        loop = asyncio.get_running_loop()
        self._doors[network_id] = await loop.create_server(server, sock=_as_socket(socket))

    async def stop(self, network_id: NetworkId) -> None:
        door = self._doors.pop(network_id, None)
        if door is not None:
            door.close()

    def _answer(self, network_id: NetworkId, request: web.BaseRequest) -> web.Response:
        found = self._guest_at(network_id, request.remote or "")
        if found is None:
            return web.Response(status=404, text="No server has this address.\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Metadata can only be read.\n")
        files = metadata.documents(*found)
        path = request.path.strip("/")
        if path.endswith("meta-data/public-keys"):
            return web.Response(text=_key_names(found[0]))
        data = files.get(path)
        if data is None:
            data = metadata.listing(files, path)
        if data is None:
            return web.Response(status=404, text="There is no such metadata.\n")
        kind = "application/json" if path.endswith(".json") else "text/plain"
        return web.Response(body=data, content_type=kind)


def _key_names(guest: GuestSpec) -> str:
    """EC2 lists keys as "0=name", unlike any other folder."""
    told = guest.metadata
    return f"0={told.key_name}" if told and told.public_key else ""


def _as_socket(door: MetadataSocket) -> socket.socket:
    if isinstance(door, socket.socket):
        return door
    return socket.socket(fileno=door.fileno())
