"""A zone as OVN's rows: one whole zone held by a golden file, and the edges one by one.

To accept a changed golden file: `CAIRN_WRITE_GOLDEN=1 pytest tests/drivers/networks`, then read the diff.
"""

import os
from pathlib import Path

from msgspec.structs import replace

from cairn.core.ids import NetworkId, NodeId, PortId, RouterId, SecurityGroupId, SubnetId
from cairn.drivers.networks.northbound import Compiled, Ref, Row, compile_zone
from cairn.wire.spec import (
    AddressPair,
    FloatingSpec,
    GatewaySpec,
    GroupRuleSpec,
    GroupSpec,
    MetadataNetworkSpec,
    ProviderSpec,
    RouterPortSpec,
    RouterSpec,
    SubnetSpec,
    SwitchPortSpec,
    SwitchSpec,
    ZoneSpec,
)

GOLDEN = Path(__file__).parent / "golden" / "zone.txt"

FRONT = SwitchSpec(
    id=NetworkId("front"),
    name="a name that OVN never sees",
    mtu=1442,
    subnets=(
        SubnetSpec(
            id=SubnetId("front4"), cidr="10.1.0.0/24", ip_version=4, gateway_ip="10.1.0.1",
            dns=("9.9.9.9",), metadata_ip="10.1.0.2", routes=(("192.168.0.0/16", "10.1.0.7"),),
        ),
        SubnetSpec(
            id=SubnetId("front6"), cidr="fd00:1::/64", ip_version=6, gateway_ip="fd00:1::1",
            dns=("fd00::53",), ipv6_mode="dhcpv6-stateful",
        ),
    ),
    metadata_port=MetadataNetworkSpec(
        network_id=NetworkId("front"), port_id=PortId("front-metadata"),
        mac="fa:16:3e:00:00:02", addresses=("10.1.0.2/24",),
    ),
)  # fmt: skip
OUTSIDE = SwitchSpec(
    id=NetworkId("outside"),
    name="outside",
    mtu=1500,
    subnets=(
        SubnetSpec(
            id=SubnetId("outside4"), cidr="203.0.113.0/24", ip_version=4,
            gateway_ip="203.0.113.1", dhcp=False,
        ),
    ),
    provider=ProviderSpec(physical_network="external", vlan=100),
)  # fmt: skip
WEB = SwitchPortSpec(
    id=PortId("web"),
    network_id=NetworkId("front"),
    mac="fa:16:3e:00:00:11",
    addresses=((SubnetId("front4"), "10.1.0.11"), (SubnetId("front6"), "fd00:1::11")),
    groups=(SecurityGroupId("a-b"),),
    hostname="web",
)
ROUTER = RouterSpec(
    id=RouterId("router"),
    name="router",
    ports=(
        RouterPortSpec(
            id=PortId("leg-front"), network_id=NetworkId("front"), mac="fa:16:3e:00:01:01",
            addresses=("10.1.0.1/24", "fd00:1::1/64"),
        ),
    ),
    gateway=GatewaySpec(
        port=RouterPortSpec(
            id=PortId("leg-outside"), network_id=NetworkId("outside"), mac="fa:16:3e:00:02:01",
            addresses=("203.0.113.10/24",),
        ),
        next_hop="203.0.113.1",
        hosts=(NodeId("node-1"), NodeId("node-2")),
    ),
    routes=(("10.9.0.0/16", "10.1.0.9"),),
    floating=(
        FloatingSpec(
            floating_ip="203.0.113.21", fixed_ip="10.1.0.11", port_id=PortId("web"),
            mac="fa:16:3e:00:03:21",
        ),
    ),
)  # fmt: skip
GROUP = GroupSpec(
    id=SecurityGroupId("a-b"),
    rules=(
        GroupRuleSpec(direction="egress", ethertype="IPv4"),
        GroupRuleSpec(direction="ingress", ethertype="IPv4", remote_group=SecurityGroupId("a-b")),
        GroupRuleSpec(
            direction="ingress", ethertype="IPv4", protocol="tcp", port_min=22, port_max=22
        ),
    ),
)
ZONE = ZoneSpec(switches=(FRONT, OUTSIDE), ports=(WEB,), groups=(GROUP,), routers=(ROUTER,))


def text_of(compiled: Compiled) -> str:
    """The rows as people compare them: sorted, a line a column, empty columns left out."""
    lines = []
    for ref in sorted(compiled.rows):
        lines.append(f"{ref.table}: {ref.key}")
        for column, value in compiled.rows[ref].columns.items():
            if isinstance(value, dict):
                shown = [f"{key}={word}" for key, word in sorted(value.items())]
            elif isinstance(value, tuple):
                shown = [item.key if isinstance(item, Ref) else str(item) for item in value]
            else:
                shown = [str(value)]
            lines += [f"  {column} {item}".rstrip() for item in shown]
    return "\n".join(lines) + "\n"


def port_row(port: SwitchPortSpec, **zone: object) -> Row:
    compiled = compile_zone(replace(ZONE, ports=(port,), **zone))
    return compiled.rows[Ref("Logical_Switch_Port", port.id)]


def test_a_whole_zone_is_these_rows() -> None:
    said = text_of(compile_zone(ZONE))
    if os.environ.get("CAIRN_WRITE_GOLDEN"):
        GOLDEN.write_text(said)
    assert said == GOLDEN.read_text()


def test_the_empty_zone_has_no_rows() -> None:
    assert compile_zone(ZoneSpec()) == Compiled(rows={})


def test_equal_zones_are_equal_rows() -> None:
    assert compile_zone(ZONE) == compile_zone(replace(ZONE))


def test_every_reference_leads_to_a_row() -> None:
    rows = compile_zone(ZONE).rows
    for row in rows.values():
        for value in row.columns.values():
            if isinstance(value, tuple):
                assert all(member in rows for member in value if isinstance(member, Ref))


def test_a_port_of_a_network_outside_the_zone_is_left_out_and_named() -> None:
    stray = replace(WEB, id=PortId("stray"), network_id=NetworkId("nowhere"))
    compiled = compile_zone(replace(ZONE, ports=(WEB, stray)))
    assert compiled.refused == ("port stray: its network nowhere is not in the zone",)
    assert Ref("Logical_Switch_Port", "web") in compiled.rows
    assert Ref("Logical_Switch_Port", "stray") not in compiled.rows


def test_a_router_without_its_outside_network_still_routes_inside() -> None:
    compiled = compile_zone(replace(ZONE, switches=(FRONT,)))
    assert compiled.refused == ("router port leg-outside: its network outside is not in the zone",)
    router = compiled.rows[Ref("Logical_Router", "router")]
    assert router.columns["ports"] == (Ref("Logical_Router_Port", "lrp-leg-front"),)
    assert router.columns["nat"] == ()


def test_a_port_may_send_from_its_own_addresses_and_its_pairs() -> None:
    pairs = (
        AddressPair(ip="10.1.0.99"),
        AddressPair(ip="10.1.0.77/28"),
        AddressPair(ip="10.1.0.5/32"),
        AddressPair(ip="10.1.0.50", mac="FA:16:3E:AA:AA:AA"),
    )
    row = port_row(replace(WEB, allowed_pairs=pairs))
    assert row.columns["port_security"] == (
        "fa:16:3e:00:00:11 10.1.0.11 fd00:1::11 10.1.0.99 10.1.0.64/28 10.1.0.5",
        "fa:16:3e:aa:aa:aa 10.1.0.50",
    )
    assert row.columns["addresses"] == (
        "fa:16:3e:00:00:11 10.1.0.11 fd00:1::11",
        "fa:16:3e:aa:aa:aa",
    )


def test_a_port_without_security_sends_as_anyone_and_is_in_no_group() -> None:
    port = replace(WEB, port_security=False)
    compiled = compile_zone(replace(ZONE, ports=(port,)))
    row = compiled.rows[Ref("Logical_Switch_Port", "web")]
    assert row.columns["port_security"] == ()
    assert row.columns["addresses"] == ("fa:16:3e:00:00:11 10.1.0.11 fd00:1::11", "unknown")
    assert Ref("Port_Group", "cairn_drop") not in compiled.rows
    assert compiled.rows[Ref("Port_Group", "sg_a_b")].columns["ports"] == ()


def test_a_port_without_addresses_is_known_by_its_mac() -> None:
    row = port_row(replace(WEB, addresses=()))
    assert row.columns["addresses"] == ("fa:16:3e:00:00:11",)
    assert row.columns["dhcpv4_options"] == ()


def test_a_host_name_that_is_none_does_not_reach_ovn() -> None:
    for name in ("", 'x", router = 1.2.3.4', "a b", "ä", "x" * 256):
        assert port_row(replace(WEB, hostname=name)).columns["options"] == {}
    assert port_row(replace(WEB, hostname="web-1.a")).columns["options"] == {
        "hostname": '"web-1.a"'
    }


def test_a_port_on_its_way_has_its_traffic_on_one_host_while_another_waits() -> None:
    def options(*hosts: str) -> dict[str, str]:
        found = port_row(replace(WEB, hosts=tuple(NodeId(h) for h in hosts))).columns["options"]
        assert isinstance(found, dict)
        return found

    assert "requested-chassis" not in options()
    assert options("h1", "h2")["requested-chassis"] == "h1,h2"
    assert options("h1", "h2")["activation-strategy"] == "rarp"
    assert options("h2")["requested-chassis"] == "h2"
    assert "activation-strategy" not in options("h2")


def test_extra_dhcp_options_make_a_row_of_the_ports_own() -> None:
    port = replace(WEB, dhcp_options=(("mtu", "1300"), ("bootfile-name", "x.efi")))
    compiled = compile_zone(replace(ZONE, ports=(port,)))
    row = compiled.rows[Ref("Logical_Switch_Port", "web")]
    assert row.columns["dhcpv4_options"] == (Ref("DHCP_Options", "web-v4"),)
    options = compiled.rows[Ref("DHCP_Options", "web-v4")].columns["options"]
    assert isinstance(options, dict)
    assert (options["mtu"], options["bootfile_name"]) == ("1300", '"x.efi"')
    assert options["router"] == "10.1.0.1"


def test_a_rule_for_a_group_outside_the_zone_allows_nothing() -> None:
    rule = GroupRuleSpec(
        direction="ingress", ethertype="IPv4", remote_group=SecurityGroupId("gone")
    )
    compiled = compile_zone(replace(ZONE, groups=(replace(GROUP, rules=(rule,)),)))
    assert compiled.rows[Ref("Port_Group", "sg_a_b")].columns["acls"] == ()


def test_snat_is_for_the_inside_and_only_where_it_is_wished() -> None:
    assert ROUTER.gateway is not None
    without = replace(ROUTER, gateway=replace(ROUTER.gateway, snat=False))
    compiled = compile_zone(replace(ZONE, routers=(without,)))
    types = [row.columns["type"] for ref, row in compiled.rows.items() if ref.table == "NAT"]
    assert types == ["dnat_and_snat"]
