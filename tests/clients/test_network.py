"""A tenant's network from nothing to a floating address and back; no guest is needed for it."""

from collections.abc import Callable
from typing import Any

import pytest
from openstack import exceptions

pytestmark = pytest.mark.clients


def test_a_network_with_router_and_floating_address(demo: Any) -> None:
    network = demo.network
    external = network.find_network("external", ignore_missing=False)
    net = network.create_network(name="lab")
    subnet = network.create_subnet(
        network_id=net.id, ip_version=4, cidr="10.77.0.0/24", name="lab",
        dns_nameservers=["9.9.9.9"], allocation_pools=[{"start": "10.77.0.9", "end": "10.77.0.99"}],
    )  # fmt: skip
    router = network.create_router(name="lab", external_gateway_info={"network_id": external.id})
    network.add_interface_to_router(router, subnet_id=subnet.id)
    port = network.create_port(network_id=net.id, name="lab")
    address = network.create_ip(floating_network_id=external.id, port_id=port.id)
    try:
        assert network.get_network(net).mtu == 1442  # the underlay's 1500 less geneve's headers
        assert port.fixed_ips[0]["ip_address"].startswith("10.77.0.")
        assert network.get_router(router).external_gateway_info["enable_snat"] is True
        assert address.fixed_ip_address == port.fixed_ips[0]["ip_address"]
        with pytest.raises(exceptions.ConflictException):
            network.delete_network(net)
        with pytest.raises(exceptions.ConflictException):
            network.remove_interface_from_router(router, subnet_id=subnet.id)
    finally:
        network.delete_ip(address)
        network.delete_port(port)
        network.remove_interface_from_router(router, subnet_id=subnet.id)
        network.delete_router(router)
        network.delete_subnet(subnet)
        network.delete_network(net)
    assert network.find_network("lab") is None
    assert list(network.ports(network_id=net.id)) == []


def test_a_security_group_and_its_rules(demo: Any) -> None:
    group = demo.network.create_security_group(name="web")
    try:
        rule = {"direction": "ingress", "ether_type": "IPv4", "security_group_id": group.id}
        web = {"protocol": "tcp", "port_range_min": 443, "port_range_max": 443}
        made = demo.network.create_security_group_rule(**rule, **web)
        demo.network.create_security_group_rule(**rule, remote_group_id=group.id)
        with pytest.raises(exceptions.ConflictException):
            demo.network.create_security_group_rule(**rule, **web)
        demo.network.delete_security_group_rule(made)
        held = demo.network.get_security_group(group).security_group_rules
        assert sorted(one["direction"] for one in held) == ["egress", "egress", "ingress"]
    finally:
        demo.network.delete_security_group(group)


def test_the_command_line_shows_what_the_demonstration_made(cli: Callable[..., Any]) -> None:
    assert {net["Name"] for net in cli("network", "list")} == {"external", "private"}
    (router,) = cli("router", "list")
    assert (router["Name"], router["Status"]) == ("router", "ACTIVE")
