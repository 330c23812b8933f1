"""A real control process over a database that was filled beforehand, and a bare server beside it.

Both are uvicorn with TLS in a process of their own, so that what a request costs can be read from the
process's clock, and what any server of this kind would cost is known from the other.
"""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench import cloud
from bench.bare import Canned
from bench.client import Client
from bench.processes import cpu_s
from cairn import settings as settings_file
from cairn.db import migrate
from cairn.host.prepare import prepare
from cairn.settings import Settings

WARM_UP = 30


@contextmanager
def installation(database: Path) -> Iterator[Settings]:
    """A state directory as `up` prepares it, with a copy of a database that was filled elsewhere."""
    state = Path(tempfile.mkdtemp(prefix="cvb-", dir="/tmp"))
    try:
        ports = f"api_port = {cloud.free_port()}\nnode_port = {cloud.free_port()}\n"
        addresses = (
            'api_host = "127.0.0.1"\napi_address = "127.0.0.1"\nnode_address = "127.0.0.1"\n'
        )
        (state / settings_file.FILE_NAME).write_text(ports + addresses)
        settings = settings_file.load(state)
        prepare(settings)
        source, target = sqlite3.connect(database), settings.control_dir / "cairn.db"
        with closing(source), closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            _mark_as_migrated(copy)
        yield settings
    finally:
        shutil.rmtree(state)


def _mark_as_migrated(copy: sqlite3.Connection) -> None:
    """`cairn dev` makes its tables at once; an installation's know how far they were migrated."""
    copy.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    copy.execute("INSERT INTO alembic_version VALUES (?)", (migrate.newest(),))
    copy.commit()


@contextmanager
def running(settings: Settings) -> Iterator[int]:
    command = [sys.executable, "-m", "cairn", "control", "--state", str(settings.state)]
    with _process(command, settings.api_port, settings.log_dir / "control.log") as pid:
        yield pid


@contextmanager
def bare(settings: Settings, canned: Canned) -> Iterator[Client]:
    port = cloud.free_port()
    file = settings.run_dir / "canned"
    file.write_bytes(msgspec.msgpack.encode(canned))
    command = [sys.executable, "-m", "bench.bare", str(port), str(file), str(settings.certs_dir)]
    with (
        _process(command, port, settings.log_dir / "bare.log") as pid,
        Client(f"https://127.0.0.1:{port}", authority=settings.certs_dir / "ca.crt") as client,
    ):
        client.token = str(pid)
        yield client


@contextmanager
def _process(command: list[str], port: int, log: Path) -> Iterator[int]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=cloud.ROOT)
    try:
        cloud.wait_for_port(port, process, log)
        yield process.pid
    finally:
        cloud.end(process)


def measure(
    client: Client,
    pid: int,
    path: str,
    count: int,
    headers: dict[str, str],
    *,
    method: str = "GET",
    body: Any = None,
) -> tuple[float, float]:
    """Seconds of the server's CPU a request, and the median time to an answer."""
    for _ in range(min(WARM_UP, count)):
        client.must(method, path, body, **headers)
    began = cpu_s(pid)
    took = sorted(client.must(method, path, body, **headers).seconds for _ in range(count))
    return (cpu_s(pid) - began) / count, took[count // 2]
