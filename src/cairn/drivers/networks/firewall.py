"""Security groups as OVN's access control lists: pure text, from rules to matches.

A group is a port group with one ACL a rule. What no rule allows is dropped by two ACLs on one port group
that holds every port with port security, at a lower priority; beside them stand the few things that a
guest needs before any rule can matter: its DHCP client, and IPv6's neighbour discovery.
Matches are OVN's expression language (ovn-sb(5), "Logical_Flow", match).
"""

from ipaddress import ip_network

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.core.ids import SecurityGroupId
from cairn.wire.spec import GroupRuleSpec, GroupSpec

DROP_GROUP = "cairn_drop"
PRIORITY_DROP = 1001
PRIORITY_ALLOW = 1002

# IANA protocol numbers of the names that OpenStack's API knows.
_PROTOCOL_NUMBERS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
    "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ospf": 89, "vrrp": 112, "pgm": 113,
    "sctp": 132, "udplite": 136,
}  # fmt: skip
_ICMP, _ICMPV6 = 1, 58
_WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}

# Packet types of IPv6 without which a guest has no link: multicast listener queries and reports,
# router and neighbour discovery (RFC 4890, section 4.4). A guest may not send router advertisements.
_ICMPV6_IN = "{130, 131, 132, 134, 135, 136}"
_ICMPV6_OUT = "{131, 132, 133, 135, 136, 143}"


class Acl(Struct, frozen=True, kw_only=True):
    direction: str  # "from-lport": a guest sends; "to-lport": a guest receives
    priority: int
    match: str
    action: str


def group_name(group_id: SecurityGroupId) -> str:
    """The port group's name: OVN wants an identifier."""
    return "sg_" + group_id.replace("-", "_")


def drop_acls() -> tuple[Acl, ...]:
    """What holds for every port with port security, whatever its groups say."""
    sends, receives = f"inport == @{DROP_GROUP}", f"outport == @{DROP_GROUP}"
    return (
        Acl(direction="from-lport", priority=PRIORITY_DROP, match=f"{sends} && ip", action="drop"),
        Acl(direction="to-lport", priority=PRIORITY_DROP, match=f"{receives} && ip", action="drop"),
        _always(sends, "ip4 && udp.src == 68 && udp.dst == 67"),
        _always(sends, "ip6 && udp.src == 546 && udp.dst == 547"),
        _always(receives, "ip6 && udp.src == 547 && udp.dst == 546 && ip6.src == fe80::/10"),
        _always(sends, f"ip6 && icmp6.type == {_ICMPV6_OUT}"),
        _always(receives, f"ip6 && icmp6.type == {_ICMPV6_IN}"),
    )


def _always(port: str, match: str) -> Acl:
    direction = "from-lport" if port.startswith("inport") else "to-lport"
    return Acl(
        direction=direction, priority=PRIORITY_ALLOW, match=f"{port} && {match}", action="allow"
    )


def group_acls(group: GroupSpec) -> tuple[tuple[Acl, ...], tuple[str, ...]]:
    """The group's rules, equal ones once, and why some were left out.

    A rule that OVN cannot express allows nothing, which is safe; it must not stop the other tenants'.
    """
    action = "allow-related" if group.stateful else "allow-stateless"
    acls: dict[Acl, None] = {}
    refused = []
    for rule in group.rules:
        try:
            acls[_rule_acl(group.id, rule, action)] = None
        except Invalid as error:
            refused.append(f"rule of security group {group.id}: {error.message}")
    return tuple(acls), tuple(refused)


def _rule_acl(group_id: SecurityGroupId, rule: GroupRuleSpec, action: str) -> Acl:
    sends = rule.direction == "egress"
    port = f"{'inport' if sends else 'outport'} == @{group_name(group_id)}"
    ip = "ip4" if rule.ethertype == "IPv4" else "ip6"
    remote = f"{ip}.{'dst' if sends else 'src'}"
    parts = [port, ip, *_remote_match(rule, ip, remote), *_protocol_match(rule, ip)]
    return Acl(
        direction="from-lport" if sends else "to-lport",
        priority=PRIORITY_ALLOW,
        match=" && ".join(parts),
        action=action,
    )


def _remote_match(rule: GroupRuleSpec, ip: str, remote: str) -> list[str]:
    if rule.remote_group is not None:
        # OVN keeps the addresses of a port group's ports in an address set of this name.
        return [f"{remote} == ${group_name(rule.remote_group)}_{ip}"]
    if rule.remote_cidr is None:
        return []
    try:
        network = ip_network(rule.remote_cidr, strict=False)
    except ValueError as error:
        raise Invalid(f"remote_ip_prefix {rule.remote_cidr}: not a CIDR") from error
    # "Any address" is no condition, and OVN does not parse a prefix of no bits.
    return [f"{remote} == {network}"] if network.prefixlen else []


def _protocol_match(rule: GroupRuleSpec, ip: str) -> list[str]:
    if rule.protocol is None:
        return []
    number = _protocol_number(rule.protocol)
    if number in (_ICMP, _ICMPV6):
        # OpenStack lets "icmp" stand for the version of the rule's ethertype.
        icmp = "icmp4" if ip == "ip4" else "icmp6"
        return [
            icmp,
            *([f"{icmp}.type == {rule.port_min}"] if rule.port_min is not None else []),
            *([f"{icmp}.code == {rule.port_max}"] if rule.port_max is not None else []),
        ]
    if number not in _WITH_PORTS:
        return [f"ip.proto == {number}"]
    name = _WITH_PORTS[number]
    low = rule.port_min if rule.port_min is not None else rule.port_max
    high = rule.port_max if rule.port_max is not None else rule.port_min
    if low is None:
        return [name]
    if low == high:
        return [name, f"{name}.dst == {low}"]
    return [name, f"{name}.dst >= {low}", f"{name}.dst <= {high}"]


def _protocol_number(protocol: str) -> int:
    name = protocol.lower()
    if name in _PROTOCOL_NUMBERS:
        return _PROTOCOL_NUMBERS[name]
    if name.isdigit() and int(name) <= 255:
        return int(name)
    raise Invalid(f"protocol {protocol}: neither a known name nor a number up to 255")
