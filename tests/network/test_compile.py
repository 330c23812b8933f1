"""Records to specs: a table of what a rule or gateway becomes, and one whole zone as a golden file."""

from pathlib import Path

import msgspec
import pytest

from cairn.core.ids import NodeId, RouterId, ServerId
from cairn.db.engine import Database, Tx
from cairn.network import compile as compiler
from cairn.network import service
from cairn.network.records import Network, NetworkKind, Router
from cairn.network.service import floating_ips, groups, routers
from cairn.network.wishes import (
    FixedIpWish,
    FloatingIpWish,
    GroupWish,
    PairWish,
    RouteWish,
    RuleWish,
)
from tests.network import cloud
from tests.network.cloud import ALICE

GOLDEN = Path(__file__).with_name("zone.golden.json")


def _zone(tx: Tx) -> bytes:
    """A network with everything on it. Ids follow from the seed of the `sqlite` fixture."""
    node = cloud.host(tx)
    public = cloud.outside(tx)
    net = cloud.network(tx, name="inside")
    four = cloud.subnet(
        tx, net, "10.1.0.0/24", dns=("9.9.9.9",),
        routes=(RouteWish(destination="10.9.0.0/16", nexthop="10.1.0.9"),),
    )  # fmt: skip
    cloud.subnet(tx, net, "fd00:1::/64", ra_mode="slaac", address_mode="slaac")
    group = groups.create_group(tx, ALICE, GroupWish(name="web"))
    for rule in (
        RuleWish(group_id=group.id, direction="ingress", protocol="tcp", port_min=80, port_max=80),
        RuleWish(group_id=group.id, direction="ingress", protocol="vrrp", remote_group_id=group.id),
        RuleWish(group_id=group.id, direction="ingress", protocol=1, port_min=8),
    ):
        groups.create_rule(tx, ALICE, rule)
    router = cloud.router(tx, public)
    routers.add_interface(tx, ALICE, router.id, subnet_id=four.id, port_id=None)
    port = cloud.port(
        tx, net, group_ids=(group.id,), fixed_ips=(FixedIpWish(ip="10.1.0.20"),),
        mac="fa:16:3e:00:00:01", pairs=(PairWish(ip="10.1.0.99"),),
    )  # fmt: skip
    floating_ips.create_floating_ip(
        tx, ALICE, FloatingIpWish(network_id=public.id, port_id=port.id)
    )
    service.bind_port(tx, port.id, ServerId("s1"), node)
    whole = {
        "zone": service.zone_of(tx, "nova"),
        "ports": service.ports_of(tx, node),
        "metadata_networks": service.metadata_networks_of(tx, node),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def test_whole_zone_is_as_reviewed(sqlite: Database) -> None:
    """To accept a change: delete the golden file, run this test, review the difference."""
    made = sqlite.write_now(_zone)
    if not GOLDEN.exists():
        GOLDEN.write_bytes(made)
        pytest.fail("the golden file was missing and has been written: review it")
    assert made == GOLDEN.read_bytes()


def _network(**changes: object) -> Network:
    values = dict.fromkeys(Network.__struct_fields__) | {
        "id": "n", "kind": NetworkKind.FLAT, "physical_network": "public",
        "subnet_ids": (), "tags": (),
    }  # fmt: skip
    return Network(**(values | changes))  # type: ignore[arg-type]


def _router(name: str) -> Router:
    values = dict.fromkeys(Router.__struct_fields__) | {"id": RouterId(name)}
    return Router(**values)  # type: ignore[arg-type]


HOSTS = tuple(
    compiler.GatewayHost(id=NodeId(f"h{i}"), physical_networks=("public",) if i % 2 else ())
    for i in range(20)
)


def test_gateways_are_on_hosts_with_the_physical_network_and_spread() -> None:
    firsts = set()
    for number in range(200):
        hosts = compiler.gateway_hosts(_router(f"r{number}"), _network(), HOSTS)
        assert len(hosts) == compiler.GATEWAY_HOSTS_MAX
        assert all(int(h[1:]) % 2 for h in hosts)
        firsts.add(hosts[0])
    assert len(firsts) == 10


def test_host_that_goes_moves_only_its_own_gateways() -> None:
    gone = HOSTS[1].id
    for number in range(50):
        router = _router(f"r{number}")
        before = compiler.gateway_hosts(router, _network(), HOSTS)
        after = compiler.gateway_hosts(router, _network(), [h for h in HOSTS if h.id != gone])
        assert [h for h in before if h != gone] == list(after)[: len(before) - (gone in before)]


def test_network_between_hosts_has_its_gateway_anywhere() -> None:
    network = _network(kind=NetworkKind.GENEVE, physical_network=None)
    assert len(compiler.gateway_hosts(_router("r"), network, HOSTS[:3])) == 3
