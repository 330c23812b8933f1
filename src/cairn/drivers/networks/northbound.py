"""A zone as rows of OVN's northbound database: a pure function, so that golden tests can hold it.

Each row has a key that is ours and lasts as long as the thing it stands for; it is written into the row's
`external_ids`, so that the writer (`databases.py`) finds its rows again, changes what differs and removes
what no zone asks for. Rows name each other by (table, key). Columns that are not given are not ours.

How things map: network → logical switch · port → switch port of the same name · subnet → DHCP options ·
security group → port group with its ACLs · router → logical router; each leg is a pair of ports ·
floating IP → NAT row · the gateway's candidates → gateway chassis, named as the node.
"""

from collections.abc import Iterable
from ipaddress import ip_interface, ip_network
from typing import NamedTuple

from msgspec import Struct

from cairn.core.ids import NetworkId, PortId, SecurityGroupId, SubnetId
from cairn.drivers.networks import dhcp, firewall
from cairn.wire.spec import (
    AddressPair,
    GatewaySpec,
    GroupSpec,
    RouterPortSpec,
    RouterSpec,
    SubnetSpec,
    SwitchPortSpec,
    SwitchSpec,
    ZoneSpec,
)


class Ref(NamedTuple):
    """Another row of the zone."""

    table: str
    key: str


Value = str | int | bool | tuple[str, ...] | tuple[Ref, ...] | dict[str, str]


class Row(Struct, frozen=True, kw_only=True):
    """One row as it should be. An optional column that should be empty is ()."""

    table: str
    key: str
    columns: dict[str, Value | tuple[int, ...] | tuple[bool, ...]]


class Compiled(Struct, frozen=True, kw_only=True):
    rows: dict[Ref, Row]
    refused: tuple[str, ...] = ()  # what could not be expressed and was left out, and why


def compile_zone(zone: ZoneSpec) -> Compiled:
    """Every row that the zone needs, parents before their children or after: the order says nothing."""
    switches = {switch.id: switch for switch in zone.switches}
    subnets = {subnet.id: subnet for switch in zone.switches for subnet in switch.subnets}
    rows: list[Row] = []
    ports_of: dict[NetworkId, list[Ref]] = {switch.id: [] for switch in zone.switches}
    refused: list[str] = []

    def add_ports(network_id: NetworkId, ports: Iterable[Row]) -> None:
        for row in ports:
            rows.append(row)
            ports_of[network_id].append(Ref(row.table, row.key))

    for switch in zone.switches:
        rows += _dhcp_rows(switch)
        add_ports(switch.id, _own_ports(switch))
    for port in zone.ports:
        if port.network_id not in switches:
            refused.append(f"port {port.id}: its network {port.network_id} is not in the zone")
            continue
        extra = _port_dhcp_rows(port, switches[port.network_id], subnets)
        rows += extra
        add_ports(port.network_id, [_port_row(port, subnets, extra)])
    for router in zone.routers:
        lost = [leg for leg in _legs(router) if leg.network_id not in switches]
        refused += [
            f"router port {leg.id}: its network {leg.network_id} is not in the zone" for leg in lost
        ]
        legs = [leg for leg in _legs(router) if leg.network_id in switches]
        for leg in legs:
            add_ports(leg.network_id, [_leg_switch_row(router, leg)])
        rows += _router_rows(router, legs, switches)
    rows += [_switch_row(switch, ports_of[switch.id]) for switch in zone.switches]
    present = {Ref(row.table, row.key) for row in rows if row.table == "Logical_Switch_Port"}
    group_rows, group_refused = _group_rows(zone, present)
    rows += group_rows
    return Compiled(
        rows={Ref(row.table, row.key): row for row in rows},
        refused=(*refused, *group_refused),
    )


# --- networks and subnets ----------------------------------------------------------------------------


def _switch_row(switch: SwitchSpec, ports: list[Ref]) -> Row:
    return Row(
        table="Logical_Switch",
        key=switch.id,
        columns={
            "name": switch.id,
            "ports": tuple(ports),
            "other_config": {"mcast_snoop": "false", "mtu": str(switch.mtu)},
        },
    )


def _own_ports(switch: SwitchSpec) -> list[Row]:
    """The ports that a network has by itself: its wire to the outside, and its metadata service."""
    rows = []
    if (provider := switch.provider) is not None:
        rows.append(
            _switch_port_row(
                f"wire-{switch.id}",
                type="localnet",
                addresses=("unknown",),
                options={"network_name": provider.physical_network},
                tag=(provider.vlan,) if provider.vlan else (),
            )
        )
    if (metadata := switch.metadata_port) is not None:
        plain = (str(ip_interface(address).ip) for address in metadata.addresses)
        rows.append(
            _switch_port_row(
                metadata.port_id, type="localport", addresses=(" ".join([metadata.mac, *plain]),)
            )
        )
    return rows


def _dhcp_rows(switch: SwitchSpec) -> list[Row]:
    return [
        _dhcp_row(subnet.id, subnet, switch.mtu)
        for subnet in switch.subnets
        if dhcp.answers_dhcp(subnet)
    ]


def _dhcp_row(
    key: str, subnet: SubnetSpec, mtu: int, extra: tuple[tuple[str, str], ...] = ()
) -> Row:
    if subnet.ip_version == 4:
        options = dhcp.options_v4(subnet, mtu, extra)
    else:
        options = dhcp.options_v6(subnet, extra)
    return Row(table="DHCP_Options", key=key, columns={"cidr": subnet.cidr, "options": options})


# --- ports -------------------------------------------------------------------------------------------


def _port_row(port: SwitchPortSpec, subnets: dict[SubnetId, SubnetSpec], extra: list[Row]) -> Row:
    own = " ".join([port.mac, *(ip for _, ip in port.addresses)])
    guests = _allowed(port)
    others = tuple(mac for mac in guests if mac != port.mac)
    return _switch_port_row(
        port.id,
        addresses=(own, *others, *(() if port.port_security else ("unknown",))),
        port_security=tuple(guests.values()) if port.port_security else (),
        options=_port_options(port),
        enabled=() if port.enabled else (False,),
        dhcpv4_options=_dhcp_ref(port, subnets, extra, ip_version=4),
        dhcpv6_options=_dhcp_ref(port, subnets, extra, ip_version=6),
    )


def _port_options(port: SwitchPortSpec) -> dict[str, str]:
    options = {}
    if _is_host_name(port.hostname):
        # Quoted, for it ends up inside an action of OVN's; hence also the narrow check.
        options["hostname"] = f'"{port.hostname}"'
    if port.hosts:
        options["requested-chassis"] = ",".join(port.hosts)
    if len(port.hosts) > 1:
        # ovn-nb(5): on the other chassis nothing passes before the guest there announces itself.
        options["activation-strategy"] = "rarp"
    return options


def _allowed(port: SwitchPortSpec) -> dict[str, str]:
    """By MAC, OVN's word for what the port may send from: "mac address address"."""
    sources: dict[str, list[str]] = {port.mac: [ip for _, ip in port.addresses]}
    for pair in port.allowed_pairs:
        sources.setdefault((pair.mac or port.mac).lower(), []).append(_pair_address(pair))
    return {mac: " ".join([mac, *dict.fromkeys(ips)]) for mac, ips in sources.items()}


def _pair_address(pair: AddressPair) -> str:
    if "/" not in pair.ip:
        return pair.ip
    # With host bits set OVN would allow that one address only.
    network = ip_network(pair.ip, strict=False)
    return str(network[0]) if network.prefixlen == network.max_prefixlen else str(network)


def _is_host_name(name: str) -> bool:
    bare = name.replace("-", "").replace(".", "")
    return bare.isascii() and bare.isalnum() and len(name) <= 255


def _port_dhcp_rows(
    port: SwitchPortSpec, switch: SwitchSpec, subnets: dict[SubnetId, SubnetSpec]
) -> list[Row]:
    """DHCP options of the port's own, where its user asked for more than the subnet's."""
    if not port.dhcp_options:
        return []
    first = {4: _dhcp_subnet(port, subnets, 4), 6: _dhcp_subnet(port, subnets, 6)}
    return [
        _dhcp_row(f"{port.id}-v{version}", subnet, switch.mtu, port.dhcp_options)
        for version, subnet in first.items()
        if subnet is not None
    ]


def _dhcp_ref(
    port: SwitchPortSpec,
    subnets: dict[SubnetId, SubnetSpec],
    extra: list[Row],
    ip_version: int,
) -> tuple[Ref, ...]:
    own = f"{port.id}-v{ip_version}"
    if any(row.key == own for row in extra):
        return (Ref("DHCP_Options", own),)
    subnet = _dhcp_subnet(port, subnets, ip_version)
    return (Ref("DHCP_Options", subnet.id),) if subnet is not None else ()


def _dhcp_subnet(
    port: SwitchPortSpec, subnets: dict[SubnetId, SubnetSpec], ip_version: int
) -> SubnetSpec | None:
    """OVN answers a port from one subnet of each version: the port's first that has DHCP."""
    for subnet_id, _ in port.addresses:
        subnet = subnets.get(subnet_id)
        if subnet is not None and subnet.ip_version == ip_version and dhcp.answers_dhcp(subnet):
            return subnet
    return None


def _switch_port_row(
    key: str,
    *,
    type: str = "",
    addresses: tuple[str, ...],
    port_security: tuple[str, ...] = (),
    options: dict[str, str] | None = None,
    tag: tuple[int, ...] = (),
    enabled: tuple[bool, ...] = (),
    dhcpv4_options: tuple[Ref, ...] = (),
    dhcpv6_options: tuple[Ref, ...] = (),
) -> Row:
    return Row(
        table="Logical_Switch_Port",
        key=key,
        columns={
            "name": key,
            "type": type,
            "addresses": addresses,
            "port_security": port_security,
            "options": options or {},
            "tag": tag,
            "enabled": enabled,
            "dhcpv4_options": dhcpv4_options,
            "dhcpv6_options": dhcpv6_options,
        },
    )


# --- security groups ---------------------------------------------------------------------------------


def _group_rows(zone: ZoneSpec, present: set[Ref]) -> tuple[list[Row], list[str]]:
    secured = [
        port
        for port in zone.ports
        if port.port_security and Ref("Logical_Switch_Port", port.id) in present
    ]
    members: dict[str, list[PortId]] = {group.id: [] for group in zone.groups}
    for port in secured:
        for group_id in port.groups:
            members.get(group_id, []).append(port.id)
    rows: list[Row] = []
    if secured:
        ids = [port.id for port in secured]
        rows += _port_group_rows(firewall.DROP_GROUP, ids, firewall.drop_acls())
    refused: list[str] = []
    known = {group.id for group in zone.groups}
    for group in zone.groups:
        acls, why = firewall.group_acls(_without_strangers(group, known))
        refused += why
        rows += _port_group_rows(firewall.group_name(group.id), members[group.id], acls)
    return rows, refused


def _without_strangers(group: GroupSpec, known: set[SecurityGroupId]) -> GroupSpec:
    """Without rules for a remote group that the zone does not have: OVN would refuse the whole match."""
    rules = tuple(r for r in group.rules if r.remote_group is None or r.remote_group in known)
    return GroupSpec(id=group.id, rules=rules, stateful=group.stateful)


def _port_group_rows(name: str, ports: list[PortId], acls: tuple[firewall.Acl, ...]) -> list[Row]:
    acl_rows = [
        Row(
            table="ACL",
            # What the ACL says is what it is: a changed rule is another row.
            key=f"{name} {acl.direction} {acl.action} {acl.match}",
            columns={
                "direction": acl.direction,
                "priority": acl.priority,
                "match": acl.match,
                "action": acl.action,
            },
        )
        for acl in acls
    ]
    group = Row(
        table="Port_Group",
        key=name,
        columns={
            "name": name,
            "ports": tuple(Ref("Logical_Switch_Port", port) for port in ports),
            "acls": tuple(Ref("ACL", row.key) for row in acl_rows),
        },
    )
    return [*acl_rows, group]


# --- routers -----------------------------------------------------------------------------------------


def _legs(router: RouterSpec) -> list[RouterPortSpec]:
    return [*router.ports, *([router.gateway.port] if router.gateway else [])]


def _leg_switch_row(router: RouterSpec, leg: RouterPortSpec) -> Row:
    """The switch's end of a router's leg."""
    options = {"router-port": _leg_name(leg)}
    if router.gateway is not None and leg.id == router.gateway.port.id:
        # The gateway tells the outside, by gratuitous ARP, where its addresses are now.
        options["nat-addresses"] = "router"
    return _switch_port_row(leg.id, type="router", addresses=("router",), options=options)


def _leg_name(leg: RouterPortSpec) -> str:
    return f"lrp-{leg.id}"


def _router_rows(
    router: RouterSpec, legs: list[RouterPortSpec], switches: dict[NetworkId, SwitchSpec]
) -> list[Row]:
    gateway = router.gateway
    if gateway is not None and all(leg.id != gateway.port.id for leg in legs):
        gateway = None
    chassis = _chassis_rows(gateway) if gateway else []
    leg_rows = [
        _leg_row(leg, switches[leg.network_id], chassis if _is_gateway(leg, gateway) else [])
        for leg in legs
    ]
    routes = _route_rows(router, gateway)
    nats = _nat_rows(router, gateway, legs) if gateway else []
    row = Row(
        table="Logical_Router",
        key=router.id,
        columns={
            "name": router.id,
            "enabled": () if router.enabled else (False,),
            "ports": _refs(leg_rows),
            "static_routes": _refs(routes),
            "nat": _refs(nats),
            # Learn neighbours when they are needed, not from every request that passes: with many
            # routers on one outside network the tables would grow with the square of their number.
            "options": {"always_learn_from_arp_request": "false", "dynamic_neigh_routers": "true"},
        },
    )
    return [*chassis, *leg_rows, *routes, *nats, row]


def _is_gateway(leg: RouterPortSpec, gateway: GatewaySpec | None) -> bool:
    return gateway is not None and leg.id == gateway.port.id


def _leg_row(leg: RouterPortSpec, switch: SwitchSpec, chassis: list[Row]) -> Row:
    return Row(
        table="Logical_Router_Port",
        key=_leg_name(leg),
        columns={
            "name": _leg_name(leg),
            "mac": leg.mac,
            "networks": leg.addresses,
            "gateway_chassis": _refs(chassis),
            # A gateway's leg advertises nothing: the outside network has routers of its own.
            "ipv6_ra_configs": {} if chassis else dhcp.advertisement(switch, leg.addresses),
        },
    )


def _chassis_rows(gateway: GatewaySpec) -> list[Row]:
    rows = []
    for place, node_id in enumerate(gateway.hosts):
        name = f"{_leg_name(gateway.port)}_{node_id}"
        columns: dict[str, Value | tuple[int, ...] | tuple[bool, ...]] = {
            "name": name,
            "chassis_name": node_id,
            "priority": len(gateway.hosts) - place,
        }
        rows.append(Row(table="Gateway_Chassis", key=name, columns=columns))
    return rows


def _route_rows(router: RouterSpec, gateway: GatewaySpec | None) -> list[Row]:
    rows = [
        _route_row(router, destination, next_hop, output_port=())
        for destination, next_hop in dict(router.routes).items()
    ]
    if gateway is not None and gateway.next_hop is not None:
        everything = "::/0" if ":" in gateway.next_hop else "0.0.0.0/0"
        rows.append(
            _route_row(router, everything, gateway.next_hop, output_port=(_leg_name(gateway.port),))
        )
    return rows


def _route_row(
    router: RouterSpec, destination: str, next_hop: str, output_port: tuple[str, ...]
) -> Row:
    return Row(
        table="Logical_Router_Static_Route",
        key=f"{router.id} {destination} {next_hop}",
        columns={"ip_prefix": destination, "nexthop": next_hop, "output_port": output_port},
    )


def _nat_rows(router: RouterSpec, gateway: GatewaySpec, legs: list[RouterPortSpec]) -> list[Row]:
    rows = [
        _nat_row(
            f"{router.id} {floating.floating_ip}",
            type="dnat_and_snat",
            external_ip=floating.floating_ip,
            logical_ip=floating.fixed_ip,
            external_mac=(floating.mac,) if floating.mac else (),
            logical_port=(floating.port_id,) if floating.mac else (),
        )
        for floating in router.floating
    ]
    outside = [ip_interface(a).ip for a in gateway.port.addresses if ip_interface(a).version == 4]
    if not gateway.snat or not outside:
        return rows
    inside = {
        str(ip_interface(address).network)
        for leg in legs
        if leg.id != gateway.port.id
        for address in leg.addresses
        if ip_interface(address).version == 4
    }
    return rows + [
        _nat_row(f"{router.id} {cidr}", type="snat", external_ip=str(outside[0]), logical_ip=cidr)
        for cidr in sorted(inside)
    ]


def _nat_row(
    key: str,
    *,
    type: str,
    external_ip: str,
    logical_ip: str,
    external_mac: tuple[str, ...] = (),
    logical_port: tuple[str, ...] = (),
) -> Row:
    return Row(
        table="NAT",
        key=key,
        columns={
            "type": type,
            "external_ip": external_ip,
            "logical_ip": logical_ip,
            "external_mac": external_mac,
            "logical_port": logical_port,
        },
    )


def _refs(rows: list[Row]) -> tuple[Ref, ...]:
    return tuple(Ref(row.table, row.key) for row in rows)
