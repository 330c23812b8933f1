"""Identity behind a real server on loopback, for clients that want to be redirected and signed in."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from cairn.core.clock import SystemClock
from cairn.db.engine import Database
from tests.identity.conftest import Cloud


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[tuple[Cloud, str]]:
    """A cloud and its address. `options`: of identity. Asking the cloud in process is fine, too."""
    database = Database("sqlite://", inline=True)
    database.create_all()
    cloud = Cloud(database, SystemClock(), folder, **options)
    config = uvicorn.Config(
        cloud.shell.app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))  # It queues whoever comes before the server.
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield cloud, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        cloud.passwords.close()
        database.close()
