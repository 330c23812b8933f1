"""Claims on both databases: never more than there is, however they come."""

import threading
from functools import partial
from typing import Any

import pytest

from cairn.core.errors import Conflict
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.placement import fit, service
from cairn.placement.records import Amounts
from cairn.wire.report import HostFacts, NodeReport

ONE = Amounts(vcpus=1, memory_mib=512, disk_gib=10)


def host(tx: Tx) -> Node:
    """A host with room for eight of ONE by memory and ten by disk."""
    node_id = NodeId("n1")
    fleet.enrol(tx, node_id, hostname="h1", zone="nova", roles=("compute",))
    facts = HostFacts(
        hostname="h1",
        vcpus=1,
        memory_mib=4608,
        disk_gib=100,
        disk_free_gib=100,
        accelerator="tcg",
    )
    number = fleet.connected(tx, node_id) + 1
    fleet.take_report(tx, NodeReport(node_id=node_id, number=number, spec_number=1, facts=facts))
    return fleet.node(tx, node_id)


def test_claims_fill_a_host_and_come_back(database: Database) -> None:
    node = database.write_now(host)

    def verb(tx: Tx) -> None:
        taken = [service.claim(tx, f"s{i}", node, ONE) for i in range(9)]
        assert taken == [True] * 8 + [False]
        room = service.rooms(tx, [node])[node.id]
        assert fit.lacks(room, ONE) == "lacks 512 MiB of memory (0 free)"
        service.release(tx, "s3")
        service.release(tx, "s3")
        assert service.claim(tx, "s8", node, ONE)
        assert len(service.claims_on(tx, node.id)) == 8

    database.write_now(verb)


def test_the_same_claim_again_is_no_second_one(database: Database) -> None:
    node = database.write_now(host)

    def verb(tx: Tx) -> None:
        assert service.claim(tx, "s", node, ONE)
        assert service.claim(tx, "s", node, ONE)
        assert service.rooms(tx, [node])[node.id].taken == ONE
        with pytest.raises(Conflict, match="holds room already"):
            service.claim(tx, "s", node, Amounts(vcpus=2))

    database.write_now(verb)


def test_what_is_not_asked_for_cannot_be_lacking(database: Database) -> None:
    node = database.write_now(host)

    def verb(tx: Tx) -> None:
        full = Amounts(memory_mib=4096)
        assert service.claim(tx, "s", node, full)
        assert service.claim(tx, "t", node, Amounts(disk_gib=1))
        assert not service.claim(tx, "u", node, Amounts(memory_mib=1))

    database.write_now(verb)


def test_parallel_placers_never_take_more_than_there_is(postgres_url: str, database: Any) -> None:
    """Only PostgreSQL has writers side by side; `database` makes the tables."""
    if database.is_sqlite:
        return
    node = database.write_now(host)
    won: list[bool] = []

    def one(consumer: str, tx: Tx) -> bool:
        return service.claim(tx, consumer, node, ONE)

    def place(name: str) -> None:
        won.extend(database.write_now(partial(one, f"{name}-{i}")) for i in range(4))

    threads = [threading.Thread(target=place, args=(n,)) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 8
    assert len(database.read_now(lambda tx: service.claims_on(tx, node.id))) == 8
