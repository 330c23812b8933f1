"""Which host a server goes to, as tables."""

from typing import Any

import msgspec
import pytest

from cairn.compute.schedule import Need, choose, refusal
from cairn.core.clock import FakeClock
from cairn.core.errors import NoCapacity
from cairn.core.ids import NodeId
from cairn.fleet.records import Node, NodeState
from cairn.placement.records import Amounts, Room
from cairn.wire.report import HostFacts


def node(name: str, **more: Any) -> Node:
    facts = HostFacts(
        hostname=name,
        vcpus=4,
        memory_mib=4608,
        disk_gib=100,
        disk_free_gib=100,
        accelerator="tcg",
        physical_networks=("public",),
    )
    base = Node(
        id=NodeId(name),
        hostname=name,
        zone="nova",
        roles=("compute",),
        state=NodeState.UP,
        state_since=FakeClock().now(),
        generation=1,
        spec_number=1,
        report_number=1,
        reported_spec_number=1,
        facts=facts,
    )
    return msgspec.structs.replace(base, **more)


def room(name: str, *, memory_mib: int = 0) -> Room:
    return Room(
        node_id=NodeId(name),
        capacity=Amounts(vcpus=64, memory_mib=4096, disk_gib=100),
        taken=Amounts(memory_mib=memory_mib),
    )


SMALL = Amounts(vcpus=1, memory_mib=512, disk_gib=1)


@pytest.mark.parametrize(
    ("need", "more", "reason"),
    [
        (Need(amounts=SMALL), {}, None),
        (Need(amounts=SMALL), {"roles": ("network",)}, "runs no servers"),
        (Need(amounts=SMALL), {"state": NodeState.SUSPECT}, "is suspect"),
        (Need(amounts=SMALL), {"facts": None}, "is up"),
        (
            Need(amounts=SMALL),
            {"enabled": False, "disabled_reason": "new disk"},
            "is disabled (new disk)",
        ),
        (Need(amounts=SMALL, zone="b"), {}, "is in availability zone nova, not b"),
        (
            Need(amounts=SMALL, node_ids=frozenset({NodeId("other")})),
            {},
            "does not hold the server's volumes",
        ),
        (
            Need(amounts=SMALL, physical_networks=frozenset({"dmz", "public"})),
            {},
            "is not connected to dmz",
        ),
        (
            Need(amounts=Amounts(vcpus=65, memory_mib=5000, disk_gib=1)),
            {},
            "lacks 65 virtual CPUs (64 free), lacks 5000 MiB of memory (4096 free)",
        ),
        (Need(amounts=Amounts(disk_gib=101)), {}, "lacks 101 GiB of disk (100 free)"),
    ],
)
def test_hosts_are_refused_in_words(need: Need, more: dict[str, Any], reason: str | None) -> None:
    assert refusal(need, node("a", **more), room("a")) == reason


def test_the_emptiest_host_wins_then_the_lowest_id() -> None:
    nodes = [node("c"), node("b"), node("a")]
    rooms = {NodeId(n): room(n, memory_mib=m) for n, m in (("a", 1000), ("b", 0), ("c", 0))}
    found = choose(Need(amounts=SMALL), nodes, rooms)
    assert [n.id for n in found] == ["b", "c", "a"]


def test_no_host_says_what_each_lacked_and_names_only_some() -> None:
    nodes = [node(f"h{i}") for i in range(9)]
    rooms = {n.id: room(n.id, memory_mib=4000) for n in nodes}
    with pytest.raises(NoCapacity) as raised:
        choose(Need(amounts=SMALL), nodes, rooms)
    text = raised.value.message
    assert text.startswith("No valid host was found. host h0 lacks 512 MiB of memory (96 free);")
    assert text.endswith("; and 4 more.")


def test_no_hosts_at_all() -> None:
    with pytest.raises(NoCapacity, match="There are no hosts"):
        choose(Need(amounts=SMALL), [], {})
