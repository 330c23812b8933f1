"""What control processes ask of each other, over connections without TLS around them."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cairn.core.errors import Invalid, NotFound, Unavailable
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Database
from cairn.fleet import service as fleet
from cairn.fleet.control_store import control_processes
from cairn.fleet.peers import Peers
from cairn.fleet.store import nodes
from cairn.wire.link import WIRE_VERSION, Asked, ConsoleLog, Hello, Refused, StreamLink
from tests.control.rig import fresh_database

NODE = NodeId("node-1")
SERVER = ServerId("server-1")


async def pipe(serve: Any) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def open_(port: int) -> StreamLink:
    return StreamLink(*await asyncio.open_connection("127.0.0.1", port))


class Hosts:
    """The hosts of one process; a screen repeats what it is told, in capitals."""

    def __init__(self, *here: NodeId) -> None:
        self.here = here
        self.asked: list[Asked] = []

    def is_connected(self, node_id: NodeId) -> bool:
        return node_id in self.here

    async def ask(self, node_id: NodeId, asked: Asked) -> bytes:
        if node_id not in self.here:
            raise Unavailable(f"The host {node_id} is not connected.")
        self.asked.append(asked)
        assert isinstance(asked, ConsoleLog)
        if asked.server_id != SERVER:
            raise NotFound("There is no such guest.")
        return b"line\n"

    @contextlib.asynccontextmanager
    async def screen(self, node_id: NodeId, server_id: ServerId) -> AsyncIterator[StreamLink]:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data.upper())
            writer.close()

        server, port = await pipe(shout)
        async with server:
            link = await open_(port)
            try:
                yield link
            finally:
                link.close()


class Two:
    """Process "here", which has no host, and process "there", which has one."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        for name in ("here", "there"):
            (folder / name).mkdir()
        self.folders = {name: folder / name for name in ("here", "there")}
        self.hosts = Hosts(NODE)
        self.there = Peers(
            database, self.hosts, control_id="there", connect=None, files=self.folders["there"]
        )
        self.here = Peers(
            database,
            Hosts(),
            control_id="here",
            connect=self._connect,
            files=self.folders["here"],
        )
        self.port = 0

    async def _connect(self, address: str) -> StreamLink:
        assert address == "there:1"
        return await open_(self.port)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = StreamLink(reader, writer)
        with contextlib.suppress(Invalid):
            await self.there.serve(link)
        link.close()


@pytest.fixture
async def two(postgres_url: str, tmp_path: Path) -> AsyncIterator[Two]:
    database = Database(fresh_database(postgres_url, "peers"))
    database.create_all()

    def prepare(tx: Any) -> None:
        fleet.enrol(tx, NODE, hostname="n", zone="nova", roles=("compute",))
        tx.execute(nodes.update().values(control_id="there"))
        for name in ("here", "there"):
            tx.execute(
                control_processes.insert().values(
                    id=name, name=name, address=f"{name}:1", started_at=tx.now, seen_at=tx.now
                )
            )

    database.write_now(prepare)
    made = Two(database, tmp_path)
    server, made.port = await pipe(made.accept)
    async with server:
        yield made
    database.close()


async def test_a_question_goes_to_who_has_the_host(two: Two) -> None:
    asked = ConsoleLog(server_id=SERVER, lines=5)
    assert await two.here.ask(NODE, asked) == b"line\n"
    assert two.hosts.asked == [asked]
    with pytest.raises(NotFound, match="no such guest"):
        await two.here.ask(NODE, ConsoleLog(server_id=ServerId("x"), lines=5))


async def test_a_host_that_is_nowhere_is_said_to_be(two: Two) -> None:
    two.hosts.here = ()
    with pytest.raises(Unavailable, match="not connected"):
        await two.here.ask(NODE, ConsoleLog(server_id=SERVER))
    two.database.write_now(lambda tx: tx.execute(nodes.update().values(control_id="gone")))
    with pytest.raises(Unavailable, match="not connected"):
        await two.here.ask(NODE, ConsoleLog(server_id=SERVER))


async def test_a_screen_is_carried_both_ways(two: Two) -> None:
    async with two.here.screen(NODE, SERVER) as link:
        for word in (b"hello", b"again"):
            link.writer.write(word)
            assert await link.reader.readexactly(5) == word.upper()


async def test_a_file_comes_whole_or_not_at_all(two: Two) -> None:
    content = bytes(range(256)) * 9000
    (two.folders["there"] / "image.1").write_bytes(content)
    wanted = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = await asyncio.gather(*(two.here.fetch("image.1", **wanted) for _ in range(3)))
    assert found == [True] * 3
    assert (two.folders["here"] / "image.1").read_bytes() == content
    assert not await two.here.fetch("image.2", **wanted), "nobody has it"
    (two.folders["there"] / "image.3").write_bytes(content[:-1] + b"!")
    assert not await two.here.fetch("image.3", **wanted), "it is another one"
    (two.folders["there"] / "image.4").write_bytes(content[:-1])
    assert not await two.here.fetch("image.4", **wanted), "it is too short"
    assert [path.name for path in two.folders["here"].iterdir()] == ["image.1"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "", ".."])
async def test_no_other_file_is_given_out(two: Two, name: str) -> None:
    (two.folders["there"].parent / "secret").write_text("secret")
    link = await open_(two.port)
    await link.send(Hello(wire_version=WIRE_VERSION, node_id=NODE, kind="file", subject=name))
    try:
        answer = await link.receive()
    except Unavailable:
        return
    assert isinstance(answer, Refused)


async def test_unknown_kinds_are_refused(two: Two) -> None:
    link = await open_(two.port)
    await link.send(Hello(wire_version=WIRE_VERSION, node_id=NODE, kind="node"))
    assert isinstance(await link.receive(), Refused)
