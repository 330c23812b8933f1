"""Security groups: what may reach a port and what a port may reach."""

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid
from cairn.core.ids import ProjectId, SecurityGroupId, SecurityGroupRuleId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network import addresses
from cairn.network.records import Group, Rule, Search
from cairn.network.service.access import admit, owner_of
from cairn.network.store import groups as store
from cairn.network.store import resources, tables
from cairn.network.wishes import GroupWish, RuleWish, said

PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "igmp": 2,
    "ip": 0, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "icmpv6": 58,
    "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46,
    "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
"""Names that the API takes, with their numbers (IANA, "Protocol Numbers")."""

ICMP = ("icmp", "icmpv6", "ipv6-icmp", "1", "58")
WITH_PORTS = ("tcp", "udp", "sctp", "dccp", "udplite", "6", "17", "132", "33", "136")
IPV6_ONLY = (
    "icmpv6",
    "ipv6-icmp",
    "ipv6-encap",
    "ipv6-frag",
    "ipv6-nonxt",
    "ipv6-opts",
    "ipv6-route",
)
PORTS_NAMED_MAX = 5


def find_groups(tx: Tx, who: Caller, search: Search) -> list[Group]:
    return store.find_groups(tx, who.reach, search)


def get_group(tx: Tx, who: Caller, group_id: str) -> Group:
    return store.group(tx, who.reach, group_id)


def find_rules(tx: Tx, who: Caller, search: Search) -> list[Rule]:
    return store.find_rules(tx, who.reach, search)


def get_rule(tx: Tx, who: Caller, rule_id: str) -> Rule:
    return store.rule(tx, who.reach, rule_id)


def has_default(tx: Tx, project_id: ProjectId) -> bool:
    return store.default_group_id(tx, project_id) is not None


def ensure_default(tx: Tx, project_id: ProjectId) -> SecurityGroupId:
    """The project's default group, made at its first use: all out, in only from one another."""
    found = store.default_group_id(tx, project_id)
    if found is not None:
        return found
    group_id = _add_group(
        tx, project_id, "default", "Default security group", stateful=True, default=True
    )
    for ethertype in ("IPv4", "IPv6"):
        _add_rule(
            tx, project_id, group_id, ethertype=ethertype, direction="ingress", remote=group_id
        )
    return group_id


def create_group(tx: Tx, who: Caller, wish: GroupWish) -> Group:
    """A group that lets everything out and nothing in. Raises Conflict (a second "default"), OverQuota."""
    project_id = owner_of(who, wish.project_id)
    ensure_default(tx, project_id)
    admit(tx, "security_group", project_id)
    name = said(wish.name, "")
    if name.lower() == "default":
        raise Conflict("SecurityGroupDefaultAlreadyExists: Default security group already exists.")
    group_id = _add_group(
        tx,
        project_id,
        name,
        said(wish.description, ""),
        stateful=said(wish.is_stateful, True),
        default=False,
    )
    return store.group(tx, None, group_id)


def update_group(tx: Tx, who: Caller, group_id: str, wish: GroupWish) -> Group:
    """Raises NotFound, Conflict (the default group keeps its name; statefulness of a used group)."""
    group = store.group(tx, who.reach, group_id)
    name = said(wish.name, group.name)
    if group.is_default and name != group.name:
        raise Conflict(
            "SecurityGroupCannotUpdateDefault: Updating default security group not allowed."
        )
    if not group.is_default and name.lower() == "default" and name != group.name:
        raise Conflict("SecurityGroupDefaultAlreadyExists: Default security group already exists.")
    if said(wish.is_stateful, group.is_stateful) != group.is_stateful:
        _require_unused(tx, group)
    values = {
        key: value
        for key in ("name", "description", "is_stateful")
        if (value := getattr(wish, key)) is not UNSET
    }
    resources.change(tx, tables.groups, group.id, values)
    return store.group(tx, None, group.id)


def delete_group(tx: Tx, who: Caller, group_id: str) -> None:
    """Raises Conflict while a port uses it; the default group is an admin's to delete."""
    group = store.group(tx, who.reach, group_id)
    if group.is_default and not who.is_admin:
        raise Conflict(
            "SecurityGroupCannotRemoveDefault: Insufficient rights for removing default security group."
        )
    _require_unused(tx, group)
    for zone in store.zones_naming_group(tx, group.id):
        fleet.touch_zone(tx, zone)
    store.remove_rules_naming(tx, group.id)
    resources.remove(tx, tables.groups, group.id)


def create_rule(tx: Tx, who: Caller, wish: RuleWish) -> Rule:
    """Raises NotFound, Invalid, Conflict (the same rule exists), OverQuota."""
    group = store.group(tx, who.reach, wish.group_id)
    project_id = group.project_id if wish.project_id is UNSET else owner_of(who, wish.project_id)
    admit(tx, "security_group_rule", project_id)
    ethertype = _ethertype(wish)
    if wish.direction not in ("ingress", "egress"):
        raise Invalid(
            f"InvalidInput: Invalid input for direction. Reason: '{wish.direction[:40]}' is not in "
            "['ingress', 'egress']."
        )
    protocol = _protocol(wish.protocol, ethertype)
    _require_ports(wish, protocol)
    cidr = _remote_cidr(wish, ethertype)
    remote = None
    if wish.remote_group_id is not None:
        remote = store.group(tx, who.reach, wish.remote_group_id).id
    rule_id = _add_rule(
        tx,
        project_id,
        group.id,
        ethertype=ethertype,
        direction=wish.direction,
        protocol=protocol,
        port_min=wish.port_min,
        port_max=wish.port_max,
        cidr=cidr,
        remote=remote,
        description=said(wish.description, ""),
    )
    _group_changed(tx, group.id)
    return store.rule(tx, None, rule_id)


def delete_rule(tx: Tx, who: Caller, rule_id: str) -> None:
    rule = store.rule(tx, who.reach, rule_id)
    resources.remove(tx, tables.rules, rule.id)
    _group_changed(tx, rule.group_id)


def _group_changed(tx: Tx, group_id: SecurityGroupId) -> None:
    resources.change(tx, tables.groups, group_id, {})
    for zone in store.zones_of_group(tx, group_id):
        fleet.touch_zone(tx, zone)


def _add_group(
    tx: Tx, project_id: ProjectId, name: str, description: str, *, stateful: bool, default: bool
) -> SecurityGroupId:
    group_id = SecurityGroupId(tx.new_id())
    resources.add(
        tx,
        tables.groups,
        id=group_id,
        project_id=project_id,
        name=name,
        description=description,
        is_stateful=stateful,
        is_default=default,
    )
    for ethertype in ("IPv4", "IPv6"):
        _add_rule(tx, project_id, group_id, ethertype=ethertype, direction="egress")
    return group_id


def _add_rule(
    tx: Tx,
    project_id: ProjectId,
    group_id: SecurityGroupId,
    *,
    ethertype: str,
    direction: str,
    protocol: str | None = None,
    port_min: int | None = None,
    port_max: int | None = None,
    cidr: str | None = None,
    remote: SecurityGroupId | None = None,
    description: str = "",
) -> SecurityGroupRuleId:
    # "any address" and no remote are the same rule, and so are a protocol's name and number.
    remote_key = None if cidr in ("0.0.0.0/0", "::/0") else cidr
    protocol_key = PROTOCOLS.get(protocol or "", protocol)
    parts = (direction, ethertype, protocol_key, port_min, port_max, remote_key, remote)
    fingerprint = "|".join("" if part is None else str(part) for part in parts)
    if existing := store.same_rule(tx, group_id, fingerprint):
        raise Conflict(
            f"SecurityGroupRuleExists: Security group rule already exists. Rule id is {existing}."
        )
    rule_id = SecurityGroupRuleId(tx.new_id())
    resources.add(
        tx,
        tables.rules,
        id=rule_id,
        group_id=group_id,
        project_id=project_id,
        description=description,
        direction=direction,
        ethertype=ethertype,
        protocol=protocol,
        port_min=port_min,
        port_max=port_max,
        remote_cidr=cidr,
        remote_group_id=remote,
        fingerprint=fingerprint,
    )
    return rule_id


def _ethertype(wish: RuleWish) -> str:
    named = {"ipv4": "IPv4", "ipv6": "IPv6"}.get((wish.ethertype or "IPv4").lower())
    if named is None:
        raise Invalid(
            f"SecurityGroupRuleInvalidEtherType: Security group rule for ethertype "
            f"'{str(wish.ethertype)[:40]}' not supported. Allowed values are ['IPv4', 'IPv6']."
        )
    return named


def _protocol(wanted: str | int | None, ethertype: str) -> str | None:
    """The protocol as the user wrote it, in lower case; None is any. Raises Invalid."""
    text = str(wanted).lower() if wanted is not None else ""
    if text in ("", "any"):
        return None
    if text.isdecimal() and text.isascii() and len(text) <= 3 and int(text) <= 255:
        return str(int(text))
    if text not in PROTOCOLS:
        raise Invalid(
            f"SecurityGroupRuleInvalidProtocol: Security group rule protocol {text[:40]} not "
            "supported. Only protocol values "
            f"{sorted(PROTOCOLS)} and integer representations [0 to 255] are supported."
        )
    if text in IPV6_ONLY and ethertype == "IPv4":
        raise Invalid(
            f"SecurityGroupEthertypeConflictWithProtocol: Invalid ethertype IPv4 for protocol {text}."
        )
    return text


def _require_ports(wish: RuleWish, protocol: str | None) -> None:
    low, high = wish.port_min, wish.port_max
    if low is None and high is None:
        return
    if protocol is None or (protocol not in WITH_PORTS and protocol not in ICMP):
        raise Invalid(
            "SecurityGroupProtocolRequiredWithPorts: Must also specify protocol (one that has ports) "
            "if port range is given."
        )
    if protocol in ICMP:
        for name, value in (("type (port-range-min)", low), ("code (port-range-max)", high)):
            if value is not None and not 0 <= value <= 255:
                raise Invalid(
                    "SecurityGroupInvalidIcmpValue: Invalid value for ICMP "
                    f"{name} {value}. It must be 0 to 255."
                )
        if low is None:
            raise Invalid(
                f"SecurityGroupMissingIcmpType: ICMP code (port-range-max) {high} is provided but "
                "ICMP type (port-range-min) is missing."
            )
        return
    for value in (low, high):
        if value is not None and not 0 <= value <= 65535:
            raise Invalid(f"SecurityGroupInvalidPortValue: Invalid value for port {value}.")
    if low is None or high is None or low > high or low == 0:
        raise Invalid(
            "SecurityGroupInvalidPortRange: For TCP/UDP protocols, port_range_min must be <= port_range_max "
            "and both at least 1."
        )


def _remote_cidr(wish: RuleWish, ethertype: str) -> str | None:
    if wish.remote_cidr is None or wish.remote_cidr == "":
        return None
    if wish.remote_group_id is not None:
        raise Invalid(
            "SecurityGroupRemoteGroupAndRemoteIpPrefix: Only remote_ip_prefix or remote_group_id may "
            "be provided."
        )
    block = addresses.loose_cidr(wish.remote_cidr, "remote_ip_prefix")
    if f"IPv{block.version}" != ethertype:
        raise Invalid(
            f"SecurityGroupRuleParameterConflict: Conflicting value ethertype {ethertype} for CIDR "
            f"{block}."
        )
    return str(block)


def _require_unused(tx: Tx, group: Group) -> None:
    users = store.ports_in_group(tx, group.id, PORTS_NAMED_MAX)
    if users:
        raise Conflict(
            f"SecurityGroupInUse: Security Group {group.id} in use by port {', '.join(users)}."
        )
