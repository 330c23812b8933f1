"""What the streams make of hosts that are members, were members, and never were."""

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cairn import membership, slices
from cairn.core.clock import FakeClock
from cairn.core.errors import CloudError, Unavailable
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.db.feed import Feed
from cairn.fleet import join, service
from cairn.fleet.join_records import Applicant, Wishes
from cairn.fleet.records import Node
from cairn.fleet.stream import NodeStreams
from cairn.host import certs
from cairn.wire.link import (
    SILENCE_S,
    WIRE_VERSION,
    Frame,
    Go,
    Hello,
    Refused,
    Renew,
    Renewed,
    Welcome,
)


class End:
    """One end of a connection within the process."""

    def __init__(self) -> None:
        self.peer: End | None = None
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.is_closed = False
        self.is_congested = False

    def post(self, frame: Frame) -> None:
        if self.is_closed:
            raise Unavailable("The connection is gone.")
        assert self.peer is not None
        self.peer.frames.put_nowait(frame)

    async def send(self, frame: Frame) -> None:
        self.post(frame)

    async def receive(self, silence_s: float | None = SILENCE_S) -> Frame:
        frame = await self.frames.get()
        if frame is None:
            raise Unavailable("The connection is gone.")
        return frame

    def close(self) -> None:
        self.is_closed = True
        self.frames.put_nowait(None)
        if self.peer is not None:
            self.peer.frames.put_nowait(None)


class World:
    def __init__(self, database: Database, clock: FakeClock) -> None:
        feed = Feed()
        database.on_wake(feed.wake)
        self.database = database
        self.authority = certs.new_authority(clock)
        self.streams = NodeStreams(
            database=database,
            feed=feed,
            compile_spec=slices.compile_spec,
            take_report=slices.take_report,
            renew=membership.renewals(database, self.authority),
        )
        self.tasks: list[asyncio.Task[None]] = []

    def member(self) -> Node:
        who = Applicant(key_digest="k", hostname="beta", address="192.0.2.7", agent_version="")
        wishes = Wishes(roles=("compute",), zone="nova")
        _, secret = self.database.write_now(
            lambda tx: join.create_token(tx, wishes, lifetime_s=3600)
        )
        node = self.database.write_now(lambda tx: join.join(tx, secret, who))
        assert isinstance(node, Node)
        return node

    async def call(self, hello: Hello, proven: NodeId | None) -> End:
        """A connection of an agent that says hello."""
        ours, theirs = End(), End()
        ours.peer, theirs.peer = theirs, ours
        self.tasks.append(asyncio.create_task(self._serve(theirs, proven)))
        await ours.send(hello)
        return ours

    async def _serve(self, link: End, proven: NodeId | None) -> None:
        try:
            await self.streams.serve(link, proven)
        except CloudError:
            pass
        finally:
            link.close()


@pytest.fixture
async def world(sqlite: Database, clock: FakeClock) -> AsyncIterator[World]:
    made = World(sqlite, clock)
    yield made
    await made.streams.close()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def hello(node_id: NodeId, kind: str = "node") -> Hello:
    return Hello(wire_version=WIRE_VERSION, node_id=node_id, kind=kind)


async def welcomed(world: World, node: Node) -> End:
    link = await world.call(hello(node.id), node.id)
    assert isinstance(await link.receive(), Welcome)
    return link


async def test_removed_host_is_told_to_clean_up(world: World) -> None:
    node = world.member()
    world.database.write_now(lambda tx: join.remove(tx, node))
    link = await world.call(hello(node.id), node.id)
    answer = await link.receive()
    assert isinstance(answer, Refused)
    assert answer.is_removed
    assert "beta was removed on" in answer.reason
    assert world.streams.refusals["removed"] == 1


async def test_host_that_is_merely_unknown_keeps_what_it_has(world: World) -> None:
    """A database put back from yesterday must not cost hosts that joined since their guests."""
    link = await world.call(hello(NodeId("n9")), NodeId("n9"))
    answer = await link.receive()
    assert isinstance(answer, Refused)
    assert not answer.is_removed
    assert world.streams.refusals["not enrolled"] == 1


async def test_connected_host_is_cut_off_when_it_is_removed(world: World) -> None:
    node = world.member()
    link = await welcomed(world, node)
    world.database.write_now(lambda tx: membership.remove(tx, node, is_gone=False))
    with pytest.raises(Unavailable):
        while True:
            await asyncio.wait_for(link.receive(), 5)
    again = await world.call(hello(node.id), node.id)
    answer = await again.receive()
    assert isinstance(answer, Refused) and answer.is_removed


async def test_word_that_all_is_clean_ends_the_memory_of_the_host(world: World) -> None:
    node = world.member()
    world.database.write_now(lambda tx: join.remove(tx, node))
    for _ in range(2):
        link = await world.call(hello(node.id, "left"), node.id)
        assert isinstance(await link.receive(), Go)
    assert world.database.read_now(lambda tx: join.farewell(tx, node.id)) is None


async def test_nobody_says_farewell_for_another(world: World) -> None:
    node = world.member()
    world.database.write_now(lambda tx: join.remove(tx, node))
    link = await world.call(hello(node.id, "left"), NodeId("n9"))
    assert isinstance(await link.receive(), Refused)
    assert world.database.read_now(lambda tx: join.farewell(tx, node.id)) is not None
    assert world.streams.refusals["foreign certificate"] == 1


async def test_member_that_says_it_left_stays_a_member(world: World) -> None:
    node = world.member()
    link = await world.call(hello(node.id, "left"), node.id)
    await link.receive()
    assert world.database.read_now(lambda tx: service.node(tx, node.id)).id == node.id


async def test_certificate_is_renewed_over_the_connection(world: World, clock: FakeClock) -> None:
    node = world.member()
    link = await welcomed(world, node)
    key = ec.generate_private_key(ec.SECP256R1())
    clock.advance(300 * 86400)
    await link.send(Renew(request=certs.request_for(key)))
    frame = await answer_of(link.receive, Renewed)
    assert isinstance(frame, Renewed)
    fresh = x509.load_pem_x509_certificate(frame.certificate)
    assert fresh.public_key() == key.public_key()
    assert fresh.not_valid_after_utc > clock.now() + datetime.timedelta(days=390)
    names = fresh.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"cairn:node:{node.id}"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    known = world.database.read_now(lambda tx: service.node(tx, node.id))
    assert known.key_digest == certs.digest_of_key(key.public_key())


async def test_garbage_instead_of_a_request_ends_the_connection_only(world: World) -> None:
    node = world.member()
    link = await welcomed(world, node)
    await link.send(Renew(request=b"garbage"))
    with pytest.raises(Unavailable):
        while True:
            await asyncio.wait_for(link.receive(), 5)
    assert world.database.read_now(lambda tx: service.node(tx, node.id)).key_digest == "k"


async def answer_of(receive: Callable[[], Awaitable[Frame]], kind: type) -> Frame:
    while True:
        frame = await asyncio.wait_for(receive(), 5)
        if isinstance(frame, kind):
            return frame
