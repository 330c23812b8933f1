"""What compute and the hosts need of the network, on both databases."""

import msgspec
import pytest

from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import ServerId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.network import service
from cairn.network.service import floating_ips, routers
from cairn.network.wishes import FloatingIpWish, PortWish
from tests.network import cloud
from tests.network.cloud import ADMIN, ALICE, BOB

S1, S2 = ServerId("s1"), ServerId("s2")


def test_port_of_a_server_reaches_its_host_and_its_zone(database: Database) -> None:
    def verb(tx: Tx) -> None:
        node = cloud.host(tx)
        net = cloud.network(tx, name="inside")
        cloud.subnet(tx, net, "10.1.0.0/24", dns=("9.9.9.9",))
        wish = PortWish(network_id=net.id, device_id=S1, device_owner="compute:nova")
        port = service.create_port(tx, ALICE, wish)
        before = fleet.node(tx, node).spec_number
        service.bind_port(tx, port.id, S1, node)
        assert fleet.node(tx, node).spec_number > before
        (spec,) = service.ports_of(tx, node)
        assert (spec.id, spec.server_id, spec.mtu) == (port.id, S1, 1442)
        (address,) = spec.addresses
        assert address.cidr == "10.1.0.0/24" and address.gateway_ip == "10.1.0.1"
        assert address.dns == ("9.9.9.9",)
        (metadata,) = service.metadata_networks_of(tx, node)
        assert metadata.network_id == net.id and metadata.addresses == ("10.1.0.2/24",)
        zone = service.zone_of(tx, "nova")
        assert [p.id for p in zone.ports] == [port.id]
        assert zone.switches[0].subnets[0].metadata_ip == "10.1.0.2"
        assert len(zone.groups) == 1 and len(zone.groups[0].rules) == 4

    database.write_now(verb)


def test_whole_way_of_a_floating_ip(database: Database) -> None:
    def verb(tx: Tx) -> None:
        cloud.host(tx)
        public = cloud.outside(tx)
        net = cloud.network(tx)
        sub = cloud.subnet(tx, net, "10.1.0.0/24")
        router = cloud.router(tx, public)
        routers.add_interface(tx, ALICE, router.id, subnet_id=sub.id, port_id=None)
        port = cloud.port(tx, net, device_id=S1, device_owner="compute:nova")
        wish = FloatingIpWish(network_id=public.id, port_id=port.id)
        floating = floating_ips.create_floating_ip(tx, ALICE, wish)
        assert floating.router_id == router.id
        shown = service.server_ports(tx, [S1, S2])
        assert shown[S1][0].floating == ((floating.ip, port.addresses[0].ip),)
        assert S2 not in shown
        (spec,) = service.zone_of(tx, "nova").routers
        assert spec.gateway is not None and spec.gateway.hosts == ("n1",)
        assert spec.gateway.next_hop == "203.0.113.1"
        assert spec.ports[0].addresses == ("10.1.0.1/24",)
        (mapped,) = spec.floating
        assert (mapped.floating_ip, mapped.fixed_ip) == (floating.ip, port.addresses[0].ip)
        with pytest.raises(Conflict, match="required by one or more floating IPs"):
            routers.remove_interface(tx, ALICE, router.id, subnet_id=sub.id, port_id=None)
        service.delete_port(tx, ALICE, port.id)
        assert floating_ips.get_floating_ip(tx, ALICE, floating.id).port_id is None
        assert service.zone_of(tx, "nova").routers[0].floating == ()

    database.write_now(verb)


def test_guests_host_answers_for_a_floating_ip_only_where_it_reaches_outside(
    database: Database,
) -> None:
    def verb(tx: Tx) -> None:
        outer = cloud.host(tx)
        inner = cloud.host(tx, "n2", physical=())
        public, net = cloud.outside(tx), cloud.network(tx)
        sub = cloud.subnet(tx, net, "10.1.0.0/24")
        router = cloud.router(tx, public)
        routers.add_interface(tx, ALICE, router.id, subnet_id=sub.id, port_id=None)
        port = cloud.port(tx, net)
        service.claim_port(tx, ALICE, port.id, S1)
        wish = FloatingIpWish(network_id=public.id, port_id=port.id)
        floating_ips.create_floating_ip(tx, ALICE, wish)
        for node, answers in ((inner, False), (outer, True), (inner, False)):
            before = fleet.node(tx, outer).spec_number
            service.bind_port(tx, port.id, S1, node)
            (mapped,) = service.zone_of(tx, "nova").routers[0].floating
            assert bool(mapped.mac) == answers
            assert fleet.node(tx, outer).spec_number > before  # it writes the zone

    database.write_now(verb)


def test_users_port_is_claimed_once_and_outlives_its_server(database: Database) -> None:
    def verb(tx: Tx) -> None:
        node = cloud.host(tx)
        net = cloud.network(tx)
        cloud.subnet(tx, net, "10.1.0.0/24")
        port = cloud.port(tx, net)
        with pytest.raises(NotFound):
            service.claim_port(tx, BOB, port.id, S1)
        service.claim_port(tx, ALICE, port.id, S1)
        service.claim_port(tx, ALICE, port.id, S1)
        with pytest.raises(Conflict, match="in use by s1"):
            service.claim_port(tx, ALICE, port.id, S2)
        service.bind_port(tx, port.id, S1, node)
        service.unbind_port(tx, port.id)
        assert service.ports_of(tx, node) == ()
        free = service.get_port(tx, ALICE, port.id)
        assert (free.device_id, free.device_owner, free.node_id) == ("", "", None)
        service.claim_port(tx, ALICE, port.id, S2)

    database.write_now(verb)


def test_moved_port_is_touched_on_both_hosts(database: Database) -> None:
    def verb(tx: Tx) -> None:
        one, two = cloud.host(tx, "n1"), cloud.host(tx, "n2", roles=("compute",))
        port = cloud.port(tx, cloud.network(tx))
        service.bind_port(tx, port.id, S1, one)
        numbers = [fleet.node(tx, n).spec_number for n in (one, two)]
        service.bind_port(tx, port.id, S1, two)
        assert all(
            fleet.node(tx, n).spec_number > was for n, was in zip((one, two), numbers, strict=True)
        )
        assert service.ports_of(tx, one) == ()
        assert len(service.ports_of(tx, two)) == 1

    database.write_now(verb)


def test_port_of_a_moving_server_may_be_on_two_hosts_and_then_on_the_new_one(
    database: Database,
) -> None:
    def hosts_of(tx: Tx) -> list[tuple[str, ...]]:
        return [tuple(p.hosts) for p in service.zone_of(tx, "nova").ports]

    def verb(tx: Tx) -> None:
        one, two = cloud.host(tx, "n1"), cloud.host(tx, "n2", roles=("compute",))
        port = cloud.port(tx, cloud.network(tx))
        service.bind_port(tx, port.id, S1, one)
        assert hosts_of(tx) == [()]
        number = fleet.node(tx, one).spec_number
        service.pin_ports(tx, S1, (one, two))
        assert hosts_of(tx) == [(one, two)]
        assert fleet.node(tx, one).spec_number > number, "who writes the zone is told"
        assert [p.id for p in service.ports_of_servers(tx, [S1])] == [port.id]
        assert service.ports_of(tx, two) == ()
        service.bind_port(tx, port.id, S1, two)
        service.pin_ports(tx, S1, (two,))
        assert hosts_of(tx) == [(two,)]
        service.unplace_ports(tx, S1)
        assert hosts_of(tx) == [()]

    database.write_now(verb)


def test_reports_decide_whether_a_port_is_up_and_old_ones_are_refused(database: Database) -> None:
    def verb(tx: Tx) -> None:
        node = cloud.host(tx)
        port = cloud.port(tx, cloud.network(tx))
        service.bind_port(tx, port.id, S1, node)
        service.take_report(tx, cloud.report(node, 5, up=(port.id,)))
        assert service.get_port(tx, ALICE, port.id).is_up
        service.take_report(tx, cloud.report(node, 4))
        assert service.get_port(tx, ALICE, port.id).is_up
        service.take_report(tx, cloud.report(node, 6))
        assert not service.get_port(tx, ALICE, port.id).is_up

    database.write_now(verb)


def test_servers_join_own_and_shared_networks_but_no_external_one(database: Database) -> None:
    def verb(tx: Tx) -> None:
        cloud.host(tx)
        cloud.outside(tx)
        own = cloud.network(tx)
        cloud.network(tx, BOB)
        shared = cloud.network(tx, ADMIN, is_shared=True)
        assert [n.id for n in service.networks_for_server(tx, ALICE)] == [own.id, shared.id]

    database.write_now(verb)


def test_zone_is_the_same_whatever_was_seen(database: Database) -> None:
    def verb(tx: Tx) -> None:
        node = cloud.host(tx)
        net = cloud.network(tx)
        cloud.subnet(tx, net, "10.1.0.0/24")
        port = cloud.port(tx, net)
        before = msgspec.json.encode(service.zone_of(tx, "nova"))
        service.bind_port(tx, port.id, S1, node)
        service.take_report(tx, cloud.report(node, 9, up=(port.id,)))
        assert msgspec.json.encode(service.zone_of(tx, "nova")) == before

    database.write_now(verb)


def test_system_ports_cannot_be_deleted_by_hand(database: Database) -> None:
    def verb(tx: Tx) -> None:
        net = cloud.network(tx)
        sub = cloud.subnet(tx, net, "10.1.0.0/24")
        router = cloud.router(tx)
        leg = routers.add_interface(tx, ALICE, router.id, subnet_id=sub.id, port_id=None)
        with pytest.raises(Conflict, match="network:router_interface"):
            service.delete_port(tx, ADMIN, leg.id)

    database.write_now(verb)


def test_host_that_reaches_a_new_physical_network_becomes_a_gateway(database: Database) -> None:
    def verb(tx: Tx) -> None:
        one = cloud.host(tx, "n1")
        router = cloud.router(tx, cloud.outside(tx))
        two = cloud.host(tx, "n2", physical=(), roles=("compute",))
        service.take_report(tx, cloud.report(two, 2, physical=()))
        before = fleet.node(tx, one).spec_number
        service.take_report(tx, cloud.report(two, 3, physical=()))
        assert fleet.node(tx, one).spec_number == before
        fleet.take_report(tx, cloud.report(two, 4))
        service.take_report(tx, cloud.report(two, 4))
        assert fleet.node(tx, one).spec_number > before
        (spec,) = service.zone_of(tx, "nova").routers
        assert spec.id == router.id and spec.gateway is not None
        assert sorted(spec.gateway.hosts) == [one, two]

    database.write_now(verb)
