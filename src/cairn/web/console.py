"""A guest's screen in the browser: noVNC's page, and a WebSocket joined to the host that runs the guest.

The address that the compute API gives out carries a token that is good for a few minutes and one guest;
it is the only credential here. Bytes are carried, never looked at.
"""

import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import falcon
import falcon.asgi
from falcon.asgi import Request, Response, WebSocket

from cairn.compute import console
from cairn.core import log
from cairn.core.errors import CloudError
from cairn.core.tasks import first_to_end
from cairn.db.engine import Database
from cairn.fleet.peers import Peers
from cairn.wire.link import StreamLink

SOCKET_PATH = "/console/socket"
PAGE_PATH = "/console/vnc"  # what the compute API gives out
PAGES = "/console/novnc"
CHUNK_BYTES = 64 << 10
_REFUSED = 4403  # WebSocket close codes from 4000 are the application's own

_log = log.get("web.console")


def mount(
    app: falcon.asgi.App[Any, Any], *, database: Database, screens: Peers, pages: Path
) -> None:
    """Serve the socket, and noVNC's files out of `pages`."""
    app.add_route(SOCKET_PATH, _Socket(database, screens))
    app.add_route(PAGE_PATH, _Page())
    app.add_static_route(PAGES, str(pages))


class _Page:
    """Hands the key on to noVNC, which hands it to the socket."""

    async def on_get(self, req: Request, resp: Response) -> None:
        socket = (
            f"{SOCKET_PATH.lstrip('/')}?{urlencode({'token': req.get_param('token', default='')})}"
        )
        raise falcon.HTTPFound(f"{PAGES}/vnc_lite.html?{urlencode({'path': socket})}")


class _Socket:
    def __init__(self, database: Database, screens: Peers) -> None:
        self._database = database
        self._screens = screens

    async def on_get(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPError(426, title="Upgrade Required", headers={"Upgrade": "websocket"})

    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        token = req.get_param("token", default="")
        protocols = ws.subprotocols
        await ws.accept("binary" if "binary" in protocols else None)
        try:
            node_id, server_id = await self._database.write(lambda tx: console.redeem(tx, token))
            async with self._screens.screen(node_id, server_id) as link:
                await _carry(ws, link)
        except CloudError as error:
            _log.info("console refused", error=str(error))
            await _close(ws, _REFUSED, error.message)
        else:
            await _close(ws, 1000, "")


async def _carry(ws: WebSocket, link: StreamLink) -> None:
    """Both ways, until either side ends."""
    await first_to_end(
        ("screen to guest", _to_guest(ws, link)), ("screen to browser", _to_browser(link, ws))
    )


async def _to_guest(ws: WebSocket, link: StreamLink) -> None:
    with contextlib.suppress(falcon.WebSocketDisconnected, OSError, falcon.PayloadTypeError):
        while True:
            link.writer.write(await ws.receive_data())
            await link.writer.drain()


async def _to_browser(link: StreamLink, ws: WebSocket) -> None:
    with contextlib.suppress(falcon.WebSocketDisconnected, OSError):
        while data := await link.reader.read(CHUNK_BYTES):
            await ws.send_data(data)


async def _close(ws: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(falcon.WebSocketDisconnected, RuntimeError):
        await ws.close(code, reason[:100] or None)
