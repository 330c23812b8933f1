"""Which network database a zone's hosts follow, and that they are told when it is another one."""

import pytest
from msgspec.structs import replace

from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import service, store
from cairn.fleet.records import DEFAULT_ZONE
from cairn.fleet.southbound import moved, southbound_of
from cairn.wire.report import HostFacts, NodeReport

NET_1, NET_2, WORKER = NodeId("a-net"), NodeId("b-net"), NodeId("c-worker")
DOOR_1, DOOR_2 = "ssl:192.0.2.1:6642", "ssl:192.0.2.2:6642"
FACTS = HostFacts(
    hostname="h", vcpus=4, memory_mib=8192, disk_gib=100, disk_free_gib=90, accelerator="tcg"
)


@pytest.fixture
def zone(database: Database) -> Database:
    def enrol(tx: Tx) -> None:
        for node_id in (NET_1, NET_2, WORKER):
            roles = ("compute",) if node_id == WORKER else ("compute", "network")
            service.enrol(tx, node_id, hostname=node_id, zone=DEFAULT_ZONE, roles=roles)
            service.connected(tx, node_id)

    database.write_now(enrol)
    return database


def tell(database: Database, node_id: NodeId, door: str, number: int) -> None:
    report = NodeReport(
        node_id=node_id, number=number << 40, spec_number=1, facts=replace(FACTS, southbound=door)
    )
    assert database.write_now(lambda tx: service.take_report(tx, report))


def followed(database: Database, node_id: NodeId) -> tuple[str, ...]:
    return database.read_now(lambda tx: southbound_of(tx, service.node(tx, node_id)))


def number(database: Database, node_id: NodeId) -> int:
    return database.read_now(lambda tx: service.node(tx, node_id)).spec_number


def test_nobody_follows_a_database_of_which_nobody_told(zone: Database) -> None:
    tell(zone, NET_1, "", 1)
    assert followed(zone, WORKER) == followed(zone, NET_1) == ()


def test_all_follow_the_first_and_it_follows_itself(zone: Database) -> None:
    tell(zone, NET_2, DOOR_2, 1)
    assert followed(zone, NET_2) == () and followed(zone, WORKER) == (DOOR_2,)
    tell(zone, NET_1, DOOR_1, 1)
    assert followed(zone, NET_1) == ()
    assert followed(zone, NET_2) == followed(zone, WORKER) == (DOOR_1,)


def test_every_host_of_the_zone_is_told_once(zone: Database) -> None:
    before = {node_id: number(zone, node_id) for node_id in (NET_1, NET_2, WORKER)}
    tell(zone, NET_1, DOOR_1, 1)
    tell(zone, NET_1, DOOR_1, 2)  # the same again
    assert {n: number(zone, n) for n in before} == {n: b + 1 for n, b in before.items()}


def test_what_is_lost_is_followed_no_longer_unless_it_is_all_there_is(zone: Database) -> None:
    tell(zone, NET_1, DOOR_1, 1)
    lose(zone, NET_1)
    assert followed(zone, WORKER) == (DOOR_1,)
    tell(zone, NET_2, DOOR_2, 1)
    assert followed(zone, WORKER) == (DOOR_2,) and followed(zone, NET_2) == ()
    before = number(zone, WORKER)
    zone.write_now(lambda tx: service.connected(tx, NET_1))
    assert number(zone, WORKER) == before + 1
    assert followed(zone, WORKER) == (DOOR_1,)


def test_other_zones_follow_their_own(zone: Database) -> None:
    tell(zone, NET_1, DOOR_1, 1)
    stranger = NodeId("d-far")
    zone.write_now(
        lambda tx: service.enrol(tx, stranger, hostname="d", zone="elsewhere", roles=("compute",))
    )
    assert followed(zone, stranger) == ()


def lose(database: Database, node_id: NodeId) -> None:
    def verb(tx: Tx) -> None:
        service.silent(tx, node_id)
        store.move(tx, service.node(tx, node_id), "given up")
        moved(tx, service.node(tx, node_id))

    database.write_now(verb)
