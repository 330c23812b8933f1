"""What guests are told."""

import pytest
from msgspec.structs import replace

from cairn.core.ids import NetworkId, SubnetId
from cairn.drivers.networks import dhcp
from cairn.wire.spec import SubnetSpec, SwitchSpec

FOUR = SubnetSpec(id=SubnetId("s4"), cidr="10.1.0.0/24", ip_version=4, gateway_ip="10.1.0.1")
SIX = SubnetSpec(
    id=SubnetId("s6"), cidr="fd00::/64", ip_version=6, gateway_ip="fd00::1", ipv6_mode="slaac"
)


def test_the_least_that_a_guest_is_told() -> None:
    assert dhcp.options_v4(FOUR, 1442) == {
        "server_id": "10.1.0.1",
        "server_mac": dhcp.server_mac(FOUR),
        "lease_time": "86400",
        "mtu": "1442",
        "router": "10.1.0.1",
    }


def test_routes_carry_the_default_route_too() -> None:
    subnet = replace(
        FOUR,
        metadata_ip="10.1.0.2",
        routes=(("10.9.0.0/16", "10.1.0.9"),),
        dns=("1.1.1.1", "9.9.9.9"),
    )
    options = dhcp.options_v4(subnet, 1442)
    assert options["classless_static_route"] == (
        "{169.254.169.254/32,10.1.0.2, 10.9.0.0/16,10.1.0.9, 0.0.0.0/0,10.1.0.1}"
    )
    assert options["dns_server"] == "{1.1.1.1, 9.9.9.9}"


def test_without_a_gateway_the_server_is_the_metadata_port_and_there_is_no_default_route() -> None:
    options = dhcp.options_v4(replace(FOUR, gateway_ip=None, metadata_ip="10.1.0.2"), 1442)
    assert options["server_id"] == "10.1.0.2"
    assert options["classless_static_route"] == "{169.254.169.254/32,10.1.0.2}"
    assert "router" not in options
    assert dhcp.options_v4(replace(FOUR, gateway_ip=None), 1442)["server_id"] == "10.1.0.1"


@pytest.mark.parametrize(
    ("name", "value", "ours", "form"),
    [
        ("mtu", "1300", "mtu", "1300"),
        ("26", "1300", "mtu", "1300"),
        ("Domain-Name", "example.org", "domain_name", '"example.org"'),
        ("dns-server", "1.1.1.1,9.9.9.9", "dns_server", "{1.1.1.1, 9.9.9.9}"),
        ("ntp-server", "10.0.0.1", "ntp_server", "10.0.0.1"),
        ("tftp-server", "10.0.0.1", "tftp_server", "10.0.0.1"),
        ("66", "boot.example.org", "tftp_server", '"boot.example.org"'),
        ("server-ip-address", "10.0.0.1", "next_server", "10.0.0.1"),
    ],
)
def test_an_extra_option_in_ovns_words(name: str, value: str, ours: str, form: str) -> None:
    assert dhcp.options_v4(FOUR, 1442, ((name, value),))[ours] == form


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mtu", '1400); outport = "victim"; output; reg0 = (1'),
        ("domain-name", 'a", router = 6.6.6.6, wpad = "b'),
        ("bootfile-name", "a\\"),
        ("bootfile-name", "a\nb"),
        ("dns-server", "1.1.1.1}; drop; {"),
        ("no-such-option", "1"),
    ],
)
def test_an_option_that_would_break_out_of_its_place_is_left_out(name: str, value: str) -> None:
    assert dhcp.options_v4(FOUR, 1442, ((name, value),)) == dhcp.options_v4(FOUR, 1442)


def test_ipv6_is_told_by_its_mode() -> None:
    stateless = replace(SIX, ipv6_mode="dhcpv6-stateless", dns=("fd00::53",))
    assert dhcp.options_v6(stateless) == {
        "server_id": dhcp.server_mac(SIX),
        "dns_server": "fd00::53",
        "dhcpv6_stateless": "true",
    }
    assert "dhcpv6_stateless" not in dhcp.options_v6(replace(SIX, ipv6_mode="dhcpv6-stateful"))
    answered = [
        dhcp.answers_dhcp(replace(SIX, ipv6_mode=mode))
        for mode in (None, "slaac", "dhcpv6-stateless", "dhcpv6-stateful")
    ]
    assert answered == [False, False, True, True]


def test_a_router_advertises_where_the_subnet_asks_for_it() -> None:
    switch = SwitchSpec(id=NetworkId("n"), name="n", mtu=1442, subnets=(FOUR, SIX))
    told = dhcp.advertisement(switch, ("10.1.0.1/24", "fd00::1/64"))
    assert told == {"address_mode": "slaac", "send_periodic": "true", "mtu": "1442"}
    assert dhcp.advertisement(switch, ("10.1.0.1/24",)) == {}
    silent = replace(switch, subnets=(FOUR, replace(SIX, ipv6_mode=None)))
    assert dhcp.advertisement(silent, ("fd00::1/64",)) == {}
