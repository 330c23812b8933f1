"""Several real control processes over one PostgreSQL, on loopback ports, and hosts with real connections.

The processes are what `cairn control` runs, without its web pages; the hosts are the simulator's, whose
agents are the real ones over fake engines, and connect with TLS and certificates of the cloud's authority.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from sqlalchemy import text

import cairn.app  # noqa: F401 - brings every slice's tables
from cairn import handover
from cairn import settings as settings_file
from cairn.agent.doors import Doors
from cairn.core.clock import SystemClock
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.db import migrate
from cairn.db.engine import Database, open_sqlite
from cairn.drivers.networks.fake import Fabric
from cairn.fleet import service as fleet
from cairn.host import certs, private_files
from cairn.host.prepare import prepare
from cairn.sim.node import SimNode
from cairn.wire import tls
from cairn.wire.link import StreamLink, connect

PROGRAM = """
import sys
from pathlib import Path
from cairn import settings
from cairn.app import run_control
from cairn.host import control_lock
state = Path(sys.argv[1])
known = settings.load(state)
pages = state / "pages"
pages.mkdir(exist_ok=True)
with control_lock.held(known.control_lock_file, as_=control_lock.SERVES):
    run_control(settings.load(state), pages=pages)
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def fresh_database(postgres_url: str, name: str) -> str:
    """The address of an empty database of this name on the test's server."""
    server = Database(postgres_url)
    with server.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    server.close()
    return postgres_url.replace("/postgres?", f"/{name}?")


def make_tables(database: Database) -> None:
    """As the migrations of this release leave them, but at once."""
    database.create_all()
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(
            text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": migrate.newest()}
        )


class Control:
    """One control machine: a state directory and, now and then, a process."""

    def __init__(self, state: Path, **words: Any) -> None:
        self.state = state
        self.api_port, self.node_port = free_ports(2)
        words = {
            "api_port": self.api_port,
            "node_port": self.node_port,
            "api_host": "127.0.0.1",
            "api_address": "127.0.0.1",
            "node_address": "127.0.0.1",
            "host_address": "127.0.0.1",
            "roles": [],  # The machine itself is no host here.
        } | words
        self.write_settings(words)
        self.process: subprocess.Popen[bytes] | None = None

    def write_settings(self, words: dict[str, Any]) -> None:
        private_files.make_folder(self.state, mode=0o711)
        lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in words.items()]
        (self.state / settings_file.FILE_NAME).write_text("\n".join(lines) + "\n")

    @property
    def settings(self) -> settings_file.Settings:
        return settings_file.load(self.state)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def log(self) -> str:
        return (self.state / "control.log").read_text()

    def prepare(self) -> None:
        prepare(self.settings)

    def start(self) -> None:
        with (self.state / "control.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.state)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, within_s: float = 25.0) -> int:
        process, self.process = self.process, None
        assert process is not None
        return await asyncio.to_thread(process.wait, within_s)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.data) if self.data else None


class Client:
    """A client with the list of the API's addresses: it takes the next when one does not take it in.

    What was sent and not answered is not sent again: that is for the caller to decide.
    """

    def __init__(self, controls: list[Control], *, password: str) -> None:
        self._urls = [control.url for control in controls]
        self._password = password
        context = ssl.create_default_context(cafile=controls[0].settings.certs_dir / "ca.crt")
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=64))
        self.token = ""

    async def close(self) -> None:
        await self._session.close()

    async def sign_in(self) -> None:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self._password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": identity, "scope": scope}}
        answer = await self.call("POST", "/identity/v3/auth/tokens", body)
        assert answer.status == 201, answer.data
        self.token = answer.headers["x-subject-token"]

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        at: Control | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Raises aiohttp.ClientError when the request was sent and no answer came."""
        headers = {"x-auth-token": self.token} if self.token else {}
        data = None
        if body is not None:
            headers["content-type"] = content_type
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        urls = [at.url] if at is not None else list(self._urls)
        for index, url in enumerate(urls):
            try:
                async with self._session.request(
                    method, url + path, data=data, headers=headers
                ) as answer:
                    said = await answer.read()
                    lower = {name.lower(): value for name, value in answer.headers.items()}
                    return Answer(status=answer.status, headers=lower, data=said)
            except aiohttp.ClientConnectorError:
                if index == len(urls) - 1:
                    raise
                # The one that answers comes first from now on.
                self._urls.append(self._urls.pop(self._urls.index(url)))
        raise AssertionError("there is an address")

    async def must(self, method: str, path: str, body: Any = None, **words: Any) -> Any:
        answer = await self.call(method, path, body, **words)
        assert answer.status < 300, (method, path, answer.status, answer.data)
        return answer.body if "json" in answer.headers.get("content-type", "") else answer.data


class Rig:
    """The cloud under test."""

    def __init__(
        self, folder: Path, database_url: str | None, *, controls: int, **words: Any
    ) -> None:
        """Without a database's address, the one process keeps a file."""
        self.folder = folder
        if database_url is not None:
            words = {"database_url": database_url, **words}
        self.controls = [Control(folder / f"c{n}", **words) for n in range(controls)]
        first = self.controls[0]
        first.prepare()
        self.database = (
            Database(database_url)
            if database_url is not None
            else open_sqlite(first.settings.control_dir / "cairn.db")
        )
        make_tables(self.database)
        self.nodes: list[SimNode] = []
        self._fabric = Fabric()
        self._doors: dict[NodeId, Doors] = {}
        self._client: Client | None = None
        if database_url is None:
            assert controls == 1, "a file is for one process"
            return
        given = msgspec.json.encode(handover.export(first.settings))
        for control in self.controls[1:]:
            handover.take(control.settings, given)
            control.prepare()

    @property
    def client(self) -> Client:
        if self._client is None:
            file = self.controls[0].settings.credentials_dir / "admin-password"
            self._client = Client(self.controls, password=file.read_text().strip())
        return self._client

    async def start(self, *, hosts: int = 2) -> None:
        """Start the processes, one after the other, and hosts; sign in."""
        for control in self.controls:
            control.start()
            await self.answers(control)
        await self.client.sign_in()
        for number in range(hosts):
            await self.add_host(number)

    async def answers(self, control: Control, within_s: float = 40.0) -> None:
        async def look() -> bool:
            assert control.process is not None and control.process.poll() is None, control.log
            with contextlib.suppress(aiohttp.ClientError):
                return (await self.client.call("GET", "/healthz", at=control)).status == 200
            return False

        await until(look, within_s=within_s)

    async def _enrol(self, node_id: NodeId, roles: tuple[str, ...]) -> None:
        """Behind the control process's back, which may be writing to the same file at this moment."""
        for _ in range(50):
            with contextlib.suppress(Unavailable):
                await self.database.write(
                    lambda tx: fleet.enrol(tx, node_id, hostname=node_id, zone="nova", roles=roles)
                )
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the database stays locked")

    async def add_host(self, number: int, *, at: Control | None = None) -> SimNode:
        """A host whose agent begins at one of the control processes and knows all of them."""
        node_id = NodeId(f"host-{number}")
        roles = ("compute", "network", "storage") if number == 0 else ("compute", "storage")
        await self._enrol(node_id, roles)
        first = self.controls.index(at) if at is not None else number % len(self.controls)
        order = [*self.controls[first:], *self.controls[:first]]
        pem = self._certificate(node_id, number)

        async def dial(host: str, port: int) -> StreamLink:
            authority = self.controls[0].settings.certs_dir / "ca.crt"
            context = tls.client_context(authority=authority, certificate=pem, key=pem)
            return await connect(host, port, context)

        doors = Doors(
            [f"127.0.0.1:{control.node_port}" for control in order], dial, port=1, dice=_Unmoved()
        )
        node = SimNode(
            node_id,
            clock=SystemClock(),
            dice=random.Random(number),
            connect=lambda _: doors.connect(),
            network=number == 0,
            fabric=self._fabric,
        )
        self.nodes.append(node)
        self._doors[node_id] = doors
        node.start_agent()

        async def is_known() -> bool:
            known = await self.database.read(lambda tx: fleet.node(tx, node_id))
            return known.is_usable

        await until(is_known)
        return node

    def _certificate(self, node_id: NodeId, number: int) -> Path:
        folder = self.controls[0].settings.certs_dir
        file = self.folder / f"{node_id}.pem"
        key_file = self.folder / f"{node_id}.key"
        key = certs.ensure_key(key_file)
        authority = certs.open_authority(folder, clock=SystemClock())
        made = authority.issue(certs.request_for(key), node_id, address=f"10.9.9.{number + 1}")
        file.write_bytes(made + key_file.read_bytes())
        return file

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()
        await self.client.close()
        for control in self.controls:
            if control.process is not None:
                control.kill()
        self.database.close()


class _Unmoved(random.Random):
    """Addresses stay in the order that the test gave."""

    def shuffle(self, x: Any) -> None:
        return


async def settle_in(client: Client) -> dict[str, Any]:
    """An image, a flavor and a network; what a server of them is asked for with."""
    image = await client.must(
        "POST",
        "/image/v2/images",
        {"name": "tiny", "disk_format": "raw", "container_format": "bare"},
    )
    await client.must(
        "PUT",
        f"/image/v2/images/{image['id']}/file",
        bytes(4096),
        content_type="application/octet-stream",
    )
    flavor = await client.must(
        "POST",
        "/compute/v2.1/flavors",
        {"flavor": {"name": "small", "vcpus": 1, "ram": 64, "disk": 1}},
    )
    network = await client.must("POST", "/network/v2.0/networks", {"network": {"name": "n"}})
    subnet = {"network_id": network["network"]["id"], "ip_version": 4, "cidr": "10.9.0.0/16"}
    await client.must("POST", "/network/v2.0/subnets", {"subnet": subnet})
    for service, names in (
        ("compute/v2.1/os-quota-sets", ("instances", "cores", "ram")),
        ("network/v2.0/quotas", ("port",)),
    ):
        project = await _project(client)
        body = {"quota_set" if "compute" in service else "quota": dict.fromkeys(names, -1)}
        await client.must("PUT", f"/{service}/{project}", body)
    return {
        "imageRef": image["id"],
        "flavorRef": flavor["flavor"]["id"],
        "networks": [{"uuid": network["network"]["id"]}],
    }


async def _project(client: Client) -> str:
    found = await client.must("GET", "/identity/v3/projects?name=admin")
    return str(found["projects"][0]["id"])


async def servers(client: Client, **words: Any) -> dict[str, str]:
    """The status of every server by its id, page by page."""
    found: dict[str, str] = {}
    marker = ""
    while True:
        path = f"/compute/v2.1/servers/detail?limit=200{marker}"
        page = (await client.must("GET", path, **words))["servers"]
        if not page:
            return found
        found |= {server["id"]: server["status"] for server in page}
        marker = f"&marker={page[-1]['id']}"


async def until(
    look: Callable[[], bool] | Callable[[], Awaitable[bool]], *, within_s: float = 30.0
) -> None:
    """Wait until something is so. The time bounds a test that fails; nobody measures with it."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(rig: Rig, *, hosts: int = 2) -> AsyncIterator[Rig]:
    try:
        await rig.start(hosts=hosts)
        yield rig
    except BaseException:
        for control in rig.controls:
            with contextlib.suppress(FileNotFoundError):
                print(f"--- {control.state.name}\n{control.log[-4000:]}")
        raise
    finally:
        await rig.close()
