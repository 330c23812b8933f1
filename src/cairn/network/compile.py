"""Records to specs: what the hosts and the zone's network engine are told.

Pure: the same records give the same spec, sorted throughout, so that equal zones are equal and the
driver's difference is empty. It decides nothing that verbs have not decided; statuses never enter.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from cairn.core.ids import NetworkId, NodeId, PortId, SecurityGroupId, SubnetId
from cairn.network.addresses import with_prefix
from cairn.network.records import (
    DISTRIBUTED,
    FloatingIp,
    Group,
    Network,
    NetworkKind,
    Port,
    Router,
    Rule,
    Subnet,
)
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

GATEWAY_HOSTS_MAX = 5  # OVN probes every pair of them by BFD; more add cost and no safety


class GatewayHost(Struct, frozen=True, kw_only=True):
    """A host that could carry gateways, and the physical networks that it has."""

    id: NodeId
    physical_networks: tuple[str, ...]


class ZoneRecords(Struct, frozen=True, kw_only=True):
    """All that a zone's logical network is made from."""

    networks: Sequence[Network] = ()
    subnets: Sequence[Subnet] = ()
    ports: Sequence[Port] = ()
    groups: Sequence[Group] = ()
    routers: Sequence[Router] = ()
    floating_ips: Sequence[FloatingIp] = ()
    own_ports: Sequence[Port] = ()  # that hold the outside addresses of the floating IPs
    hosts: Sequence[GatewayHost] = ()


def zone(records: ZoneRecords) -> ZoneSpec:
    subnets = {s.id: s for s in records.subnets}
    networks = {n.id: n for n in records.networks}
    by_network: dict[NetworkId, list[Subnet]] = defaultdict(list)
    for subnet in records.subnets:
        by_network[subnet.network_id].append(subnet)
    metadata = {p.network_id: p for p in records.ports if p.device_owner == DISTRIBUTED}
    edge = [p for p in records.ports if not p.is_ours]
    return ZoneSpec(
        switches=tuple(
            _switch(n, by_network[n.id], metadata.get(n.id), subnets)
            for n in sorted(records.networks, key=_id)
        ),
        ports=tuple(_edge_port(p, networks[p.network_id]) for p in sorted(edge, key=_id)),
        groups=_groups(records.groups, edge),
        routers=_routers(records, networks, subnets),
    )


def metadata_networks(
    rows: Iterable[tuple[str, str, str, str, str]],
) -> tuple[MetadataNetworkSpec, ...]:
    """From (network, port, MAC, address, CIDR) of metadata ports, those of a network together."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for network_id, port_id, mac, ip, cidr in rows:
        found.setdefault(network_id, (port_id, mac, []))[2].append(with_prefix(ip, cidr))
    return tuple(
        MetadataNetworkSpec(
            network_id=NetworkId(network_id),
            port_id=PortId(port_id),
            mac=mac,
            addresses=tuple(sorted(held)),
        )
        for network_id, (port_id, mac, held) in sorted(found.items())
    )


def _id(thing: Network | Port | Group | Router | Subnet) -> str:
    return thing.id


def _metadata(port: Port, subnets: Mapping[SubnetId, Subnet]) -> MetadataNetworkSpec:
    return MetadataNetworkSpec(
        network_id=port.network_id,
        port_id=port.id,
        mac=port.mac,
        addresses=_with_prefixes(port, subnets),
    )


def _with_prefixes(port: Port, subnets: Mapping[SubnetId, Subnet]) -> tuple[str, ...]:
    return tuple(sorted(with_prefix(a.ip, subnets[a.subnet_id].cidr) for a in port.addresses))


def _switch(
    network: Network,
    children: Sequence[Subnet],
    metadata: Port | None,
    subnets: Mapping[SubnetId, Subnet],
) -> SwitchSpec:
    answers = {a.subnet_id: a.ip for a in metadata.addresses} if metadata else {}
    provider = None
    if network.physical_network is not None:
        is_vlan = network.kind is NetworkKind.VLAN
        provider = ProviderSpec(
            physical_network=network.physical_network,
            vlan=network.segmentation_id if is_vlan else None,
        )
    return SwitchSpec(
        id=network.id,
        name=network.name,
        mtu=network.mtu,
        subnets=tuple(
            SubnetSpec(
                id=s.id,
                cidr=s.cidr,
                ip_version=s.ip_version,
                gateway_ip=s.gateway_ip,
                dhcp=s.has_dhcp,
                dns=s.dns,
                routes=tuple((r.destination, r.nexthop) for r in s.routes),
                metadata_ip=answers.get(s.id),
                # Who announces (ra_mode) decides what a guest does; without it there is no router.
                ipv6_mode=s.ra_mode or s.address_mode,
            )
            for s in sorted(children, key=_id)
        ),
        provider=provider,
        metadata_port=_metadata(metadata, subnets) if metadata and metadata.addresses else None,
    )


def _edge_port(port: Port, network: Network) -> SwitchPortSpec:
    return SwitchPortSpec(
        id=port.id,
        network_id=port.network_id,
        mac=port.mac,
        addresses=tuple((a.subnet_id, a.ip) for a in port.addresses),
        enabled=port.is_enabled and network.is_enabled,
        port_security=port.has_security,
        allowed_pairs=tuple(AddressPair(ip=p.ip, mac=p.mac) for p in port.pairs),
        groups=port.group_ids,
        dhcp_options=tuple((o.name, o.value) for o in port.dhcp_options),
        hosts=port.hosts,
    )


def _groups(groups: Sequence[Group], ports: Sequence[Port]) -> tuple[GroupSpec, ...]:
    """Groups that filter a port of the zone, and those that such groups name: both need their
    members' addresses."""
    used: set[SecurityGroupId] = {g for p in ports for g in p.group_ids}
    named = {
        r.remote_group_id for g in groups if g.id in used for r in g.rules if r.remote_group_id
    }
    return tuple(
        GroupSpec(
            id=g.id,
            rules=tuple(_rule(r) for r in sorted(g.rules, key=lambda r: r.id)),
            stateful=g.is_stateful,
        )
        for g in sorted(groups, key=_id)
        if g.id in used | named
    )


def _rule(rule: Rule) -> GroupRuleSpec:
    return GroupRuleSpec(
        direction=rule.direction,
        ethertype=rule.ethertype,
        protocol=_protocol(rule),
        port_min=rule.port_min,
        port_max=rule.port_max,
        remote_cidr=rule.remote_cidr,
        remote_group=rule.remote_group_id,
    )


_NUMBERS = {
    "ah": "51", "dccp": "33", "egp": "8", "esp": "50", "gre": "47", "hopopt": "0", "igmp": "2",
    "ipip": "4", "ipv6-encap": "41", "ipv6-frag": "44", "ipv6-nonxt": "59", "ipv6-opts": "60",
    "ipv6-route": "43", "ospf": "89", "pgm": "113", "rsvp": "46", "sctp": "132", "udplite": "136",
    "vrrp": "112",
}  # fmt: skip
_WORDS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "ipv6-icmp": "icmpv6"}


def _protocol(rule: Rule) -> str | None:
    """Four names that the engine knows, else the number; "0" and "ip" are any."""
    text = rule.protocol
    if text is None or text in ("ip", "0"):
        return None
    if text in ("icmp", "1") and rule.ethertype == "IPv6":
        return "icmpv6"  # What the user means: IPv6 has no other.
    return _WORDS.get(text, _NUMBERS.get(text, text))


def _routers(
    records: ZoneRecords, networks: Mapping[NetworkId, Network], subnets: Mapping[SubnetId, Subnet]
) -> tuple[RouterSpec, ...]:
    legs: dict[str, list[Port]] = defaultdict(list)
    for port in records.ports:
        if port.is_ours and port.device_owner != DISTRIBUTED:
            legs[port.device_id].append(port)
    own = {p.id: p for p in records.own_ports}
    places = {p.id: p.node_id for p in records.ports}
    outside = {h.id: h.physical_networks for h in records.hosts}

    def answers_itself(floating: FloatingIp, external: Network) -> bool:
        """Whether the guest's own host reaches the external network; else the gateway answers for it."""
        host = places.get(floating.port_id) if floating.port_id else None
        return host is not None and external.physical_network in outside.get(host, ())

    floating: dict[str, list[FloatingSpec]] = defaultdict(list)
    for f in records.floating_ips:
        if f.router_id and f.port_id and f.fixed_ip:
            external = networks[own[f.own_port_id].network_id]
            floating[f.router_id].append(
                FloatingSpec(
                    floating_ip=f.ip,
                    fixed_ip=f.fixed_ip,
                    port_id=f.port_id,
                    mac=own[f.own_port_id].mac if answers_itself(f, external) else "",
                )
            )
    return tuple(
        RouterSpec(
            id=r.id,
            name=r.name,
            enabled=r.is_enabled,
            ports=tuple(
                _leg(p, subnets) for p in sorted(legs[r.id], key=_id) if p.id != r.gateway_port_id
            ),
            gateway=_gateway(r, legs[r.id], networks, subnets, records.hosts),
            routes=tuple(sorted((x.destination, x.nexthop) for x in r.routes)),
            floating=tuple(sorted(floating[r.id], key=lambda f: f.floating_ip)),
        )
        for r in sorted(records.routers, key=_id)
    )


def _leg(port: Port, subnets: Mapping[SubnetId, Subnet]) -> RouterPortSpec:
    return RouterPortSpec(
        id=port.id,
        network_id=port.network_id,
        mac=port.mac,
        addresses=_with_prefixes(port, subnets),
    )


def _gateway(
    router: Router,
    legs: Sequence[Port],
    networks: Mapping[NetworkId, Network],
    subnets: Mapping[SubnetId, Subnet],
    hosts: Sequence[GatewayHost],
) -> GatewaySpec | None:
    port = next((p for p in legs if p.id == router.gateway_port_id), None)
    if port is None:
        return None
    hops = [subnets[a.subnet_id] for a in port.addresses]
    hops.sort(key=lambda s: (s.ip_version, s.id))
    return GatewaySpec(
        port=_leg(port, subnets),
        next_hop=next((s.gateway_ip for s in hops if s.gateway_ip), None),
        snat=router.has_snat,
        hosts=gateway_hosts(router, networks[port.network_id], hosts),
    )


def gateway_hosts(
    router: Router, external: Network, hosts: Sequence[GatewayHost]
) -> tuple[NodeId, ...]:
    """Hosts that reach the external network, in an order that differs from router to router.

    By rendezvous hashing: gateways spread evenly, and a host that comes or goes moves only its own."""
    physical = external.physical_network
    able = [h.id for h in hosts if physical is None or physical in h.physical_networks]

    def weight(host: NodeId) -> bytes:
        return hashlib.sha256(f"{router.id} {host}".encode()).digest()

    return tuple(sorted(able, key=weight)[:GATEWAY_HOSTS_MAX])
