"""Hosts: numbers that only grow, old news refused, lives by the table."""

import pytest

from cairn.core.errors import NotFound
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.fleet import service
from cairn.fleet.records import DEFAULT_ZONE, NODE_LIFE, NodeState
from cairn.wire.report import HostFacts, NodeReport

NODE = NodeId("n1")
FACTS = HostFacts(
    hostname="alpha", vcpus=4, memory_mib=8192, disk_gib=100, disk_free_gib=90, accelerator="tcg"
)


@pytest.fixture
def enrolled(database: Database) -> Database:
    database.write_now(
        lambda tx: service.enrol(
            tx, NODE, hostname="alpha", zone=DEFAULT_ZONE, roles=("compute", "network")
        )
    )
    return database


def report(number: int, spec_number: int = 1) -> NodeReport:
    return NodeReport(node_id=NODE, number=number, spec_number=spec_number, facts=FACTS)


def test_enrolment_can_be_repeated(enrolled: Database) -> None:
    enrolled.write_now(
        lambda tx: service.enrol(tx, NODE, hostname="beta", zone=DEFAULT_ZONE, roles=("compute",))
    )
    (node,) = enrolled.read_now(service.nodes)
    assert node.hostname == "beta"
    assert node.state is NodeState.JOINING
    assert not node.is_usable


def test_touch_raises_the_number_and_wakes_the_stream(enrolled: Database) -> None:
    woken: list[str] = []
    enrolled.on_wake(woken.append)
    first = enrolled.write_now(lambda tx: service.touch(tx, NODE))
    second = enrolled.write_now(lambda tx: service.touch(tx, NODE))
    assert second == first + 1
    assert woken == ["node:n1", "node:n1"]


def test_zone_is_touched_where_its_network_is_written(enrolled: Database) -> None:
    before = enrolled.read_now(lambda tx: service.node(tx, NODE)).spec_number
    enrolled.write_now(lambda tx: service.touch_zone(tx, DEFAULT_ZONE))
    enrolled.write_now(lambda tx: service.touch_zone(tx, "elsewhere"))
    assert enrolled.read_now(lambda tx: service.node(tx, NODE)).spec_number == before + 1


def test_older_reports_are_refused(enrolled: Database) -> None:
    assert enrolled.write_now(lambda tx: service.take_report(tx, report(7)))
    assert not enrolled.write_now(lambda tx: service.take_report(tx, report(7)))
    assert not enrolled.write_now(lambda tx: service.take_report(tx, report(6)))
    assert enrolled.write_now(lambda tx: service.take_report(tx, report(8)))


def test_reports_of_a_later_agent_always_win(enrolled: Database) -> None:
    first = enrolled.write_now(lambda tx: service.connected(tx, NODE))
    enrolled.write_now(lambda tx: service.take_report(tx, report(first + 1000)))
    second = enrolled.write_now(lambda tx: service.connected(tx, NODE))
    assert enrolled.write_now(lambda tx: service.take_report(tx, report(second + 1)))
    assert not enrolled.write_now(lambda tx: service.take_report(tx, report(first + 1001)))


def test_silence_makes_suspect_and_coming_back_heals(enrolled: Database) -> None:
    enrolled.write_now(lambda tx: service.connected(tx, NODE))
    enrolled.write_now(lambda tx: service.take_report(tx, report(1 << 32 | 1)))
    assert enrolled.read_now(lambda tx: service.node(tx, NODE)).is_usable
    enrolled.write_now(lambda tx: service.silent(tx, NODE))
    assert enrolled.read_now(lambda tx: service.node(tx, NODE)).state is NodeState.SUSPECT
    enrolled.write_now(lambda tx: service.connected(tx, NODE))
    assert enrolled.read_now(lambda tx: service.node(tx, NODE)).state is NodeState.UP


def test_unknown_hosts_are_not_found(enrolled: Database) -> None:
    for verb in (service.connected, service.touch, service.node):
        with pytest.raises(NotFound):
            enrolled.write_now(lambda tx, verb=verb: verb(tx, NodeId("nobody")))


@pytest.mark.parametrize("state", NodeState)
@pytest.mark.parametrize("event", ["connected", "silent"])
def test_every_state_and_event(state: NodeState, event: str) -> None:
    expected = {"connected": NodeState.UP}.get(event)
    if event == "silent" and state is NodeState.UP:
        expected = NodeState.SUSPECT
    assert NODE_LIFE.table.get((state, event)) == expected
