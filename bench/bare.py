"""A bare ASGI server: `python -m bench.bare PORT FILE CERTS` answers every request with one recorded answer.

The same uvicorn, event loop, parser and TLS as the control plane's, and nothing else.
"""

import ssl
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from msgspec import Struct


class Canned(Struct, frozen=True, kw_only=True):
    headers: tuple[tuple[str, str], ...]
    data: bytes


def serve(port: int, canned: Canned, certs: Path) -> None:
    # uvicorn writes the date itself.
    headers = [(k.encode(), v.encode()) for k, v in canned.headers if k != "date"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": canned.data})

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=certs / "server.crt",
        ssl_keyfile=str(certs / "server.key"),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    serve(
        int(sys.argv[1]),
        msgspec.msgpack.decode(Path(sys.argv[2]).read_bytes(), type=Canned),
        Path(sys.argv[3]),
    )
