"""Ports: a MAC, addresses and filters at a network's edge."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Denied, Invalid
from cairn.core.ids import SecurityGroupId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network import addresses
from cairn.network.records import (
    ROUTER_INTERFACE,
    Address,
    AllowedPair,
    DhcpOption,
    Network,
    Port,
    Search,
)
from cairn.network.service import allocation, groups
from cairn.network.service.access import admit, owner_of
from cairn.network.store import groups as group_store
from cairn.network.store import networks as network_store
from cairn.network.store import ports as store
from cairn.network.store import resources, routers, tables
from cairn.network.wishes import DhcpOptionWish, PairWish, PortWish, listed, said

_BLANK: dict[str, Any] = {
    "name": "",
    "description": "",
    "is_enabled": True,
    "device_id": "",
    "device_owner": "",
    "host": "",
    "node_id": None,
    "vnic_type": "normal",
    "profile": {},
    "has_security": False,
    "pairs": (),
    "dhcp_options": (),
    "is_up": False,
    "seen_number": 0,
    "revision": 0,
}
"""A port of which nothing was said."""

VNIC_TYPES = (
    "normal",
    "direct",
    "macvtap",
    "baremetal",
    "direct-physical",
    "virtio-forwarder",
    "vdpa",
)


def find_ports(tx: Tx, who: Caller, search: Search) -> list[Port]:
    return store.find_ports(tx, who.reach, search)


def get_port(tx: Tx, who: Caller, port_id: str) -> Port:
    """Raises NotFound."""
    return store.port(tx, who.reach, port_id)


def create_port(tx: Tx, who: Caller, wish: PortWish) -> Port:
    """Raises NotFound, Denied, Invalid, Conflict (MAC or address taken), OverQuota."""
    if wish.network_id is UNSET:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'network_id' not specified"
        )
    network = network_store.network(tx, who.reach, said(wish.network_id, ""))
    project_id = owner_of(who, wish.project_id)
    _require_may_join(who, network)
    _require_may_say(who, network, wish)
    admit(tx, "port", project_id)
    default_group = groups.ensure_default(tx, project_id)
    has_security = said(wish.has_security, network.has_port_security)
    pairs = _pairs(listed(wish.pairs), has_security=has_security)
    chosen = said(wish.group_ids, None)
    if wish.group_ids is UNSET and has_security and not _is_infrastructure(wish):
        group_ids: tuple[SecurityGroupId, ...] = (default_group,)
    else:
        group_ids = _groups(tx, who, chosen or (), has_security=has_security)
    mac = _mac(tx, network, said(wish.mac, None))
    subnets = network_store.subnets_of(tx, [network.id])
    held = allocation.addresses_for(
        tx,
        network,
        subnets,
        mac,
        said(wish.fixed_ips, None) if wish.fixed_ips is not UNSET else None,
    )
    return add_port(
        tx,
        network,
        project_id=project_id,
        mac=mac,
        held=held,
        group_ids=group_ids,
        device_owner=said(wish.device_owner, ""),
        device_id=said(wish.device_id, ""),
        name=said(wish.name, ""),
        description=said(wish.description, ""),
        is_enabled=said(wish.is_enabled, True),
        host=said(wish.host, None) or "",
        vnic_type=_vnic_type(said(wish.vnic_type, None) or "normal"),
        profile=said(wish.profile, None) or {},
        has_security=has_security,
        pairs=pairs,
        dhcp_options=_merged_options((), listed(wish.dhcp_options)),
    )


def update_port(tx: Tx, who: Caller, port_id: str, wish: PortWish) -> Port:
    """Raises NotFound, Denied, Invalid, Conflict."""
    port = store.port(tx, who.reach, port_id)
    network = network_store.network(tx, None, port.network_id)
    if who.reach not in (None, port.project_id, network.project_id):
        raise Denied("PolicyNotAuthorized: The port belongs to another project.")
    _require_may_say(who, network, wish)
    if port.is_ours:
        _require_not_kept(port, wish)
    values = _plain_changes(wish)
    has_security = said(wish.has_security, port.has_security)
    if wish.pairs is not UNSET:
        values["pairs"] = _pairs(listed(wish.pairs), has_security=has_security)
    elif not has_security and port.pairs:
        raise Conflict(
            "AddressPairAndPortSecurityRequired: Port Security must be enabled in order to have "
            "allowed address pairs on a port."
        )
    if wish.dhcp_options is not UNSET:
        values["dhcp_options"] = _merged_options(port.dhcp_options, listed(wish.dhcp_options))
    mac = port.mac
    if wish.mac is not UNSET and (wanted := said(wish.mac, None)) and addresses.mac(wanted) != mac:
        if port.node_id is not None:
            raise Conflict(
                f"PortBound: Unable to complete operation on port {port.id}, port is already bound."
            )
        mac = _mac(tx, network, wanted)
        values["mac"] = mac
    group_ids = port.group_ids
    if wish.group_ids is not UNSET:
        group_ids = _groups(tx, who, listed(wish.group_ids), has_security=has_security)
    elif not has_security and group_ids:
        raise Conflict(
            "PortSecurityPortHasSecurityGroup: Port has security group associated. Cannot disable "
            "port security or ip address until security group is removed"
        )
    resources.change(tx, tables.ports, port.id, values)
    if wish.fixed_ips is not UNSET or mac != port.mac:
        _replace_addresses(tx, port, network, mac, wish)
    if group_ids != port.group_ids:
        store.set_groups(tx, port.id, group_ids)
    touch_port(tx, port, network)
    return store.port(tx, None, port.id)


def delete_port(tx: Tx, who: Caller, port_id: str) -> None:
    """Raises Conflict for ports that routers, floating IPs or the metadata service use."""
    port = store.port(tx, who.reach, port_id)
    network = network_store.network(tx, None, port.network_id)
    if who.reach not in (None, port.project_id, network.project_id):
        raise Denied("PolicyNotAuthorized: The port belongs to another project.")
    if port.is_ours:
        raise Conflict(
            f"ServicePortInUse: Port {port.id} cannot be deleted directly via the port API: has "
            f"device owner {port.device_owner}."
        )
    remove_port(tx, port, network)


def add_port(
    tx: Tx,
    network: Network,
    *,
    project_id: str,
    held: Sequence[Address],
    mac: str | None = None,
    **said_values: Any,
) -> Port:
    """A new port, and the zone touched; for this service's own ports too."""
    values: dict[str, Any] = {
        "id": tx.new_id(),
        "project_id": project_id,
        "network_id": network.id,
        "mac": mac or _mac(tx, network, None),
        "addresses": tuple(held),
        "made_at": tx.now,
        "changed_at": tx.now,
    }
    port = Port(**{**_BLANK, **values, **said_values})
    store.add_port(tx, port)
    fleet.touch_zone(tx, network.zone)
    return port


def remove_port(tx: Tx, port: Port, network: Network) -> None:
    """The port with all that hangs on it; floating IPs stay their owner's and map to nothing."""
    routers.release_port(tx, port.id)
    store.set_addresses(tx, port.id, ())
    resources.remove(tx, tables.ports, port.id)
    touch_port(tx, port, network)


def touch_port(tx: Tx, port: Port, network: Network) -> None:
    """The port changed: for the zone, and for the host that carries it."""
    fleet.touch_zone(tx, network.zone)
    if port.node_id is not None:
        fleet.touch(tx, port.node_id)


def _require_may_join(who: Caller, network: Network) -> None:
    if who.reach is None or network.project_id == who.reach or network.is_shared:
        return
    raise Denied(
        f"PolicyNotAuthorized: It is not allowed to create an interface on external network {network.id}."
    )


def _require_may_say(who: Caller, network: Network, wish: PortWish) -> None:
    """What only the network's owner may choose: it could take another port's place."""
    if who.reach is None or network.project_id == who.reach:
        return
    chosen = {
        "mac_address": wish.mac is not UNSET,
        "port_security_enabled": wish.has_security is not UNSET,
        "allowed_address_pairs": bool(said(wish.pairs, None)),
        "fixed_ips:ip_address": any(f.ip for f in listed(wish.fixed_ips)),
    }
    for name, is_said in chosen.items():
        if is_said:
            raise Denied(
                f"PolicyNotAuthorized: Only the owner of network {network.id} may set '{name}'."
            )


def _require_not_kept(port: Port, wish: PortWish) -> None:
    """Of this service's own ports only a router's leg may change its addresses, and none its device."""
    changes_device = wish.device_id is not UNSET or wish.device_owner is not UNSET
    if changes_device or (wish.fixed_ips is not UNSET and port.device_owner != ROUTER_INTERFACE):
        raise Conflict(
            f"PortInUse: Port {port.id} is kept by the network service (device owner "
            f"{port.device_owner}): its addresses and device cannot be changed here."
        )


def _is_infrastructure(wish: PortWish) -> bool:
    return said(wish.device_owner, "").startswith("network:")


def _mac(tx: Tx, network: Network, wanted: str | None) -> str:
    if wanted:
        mac = addresses.mac(wanted)
        if store.is_mac_taken(tx, network.id, mac):
            raise Conflict(
                "MacAddressInUse: Unable to complete operation for network "
                f"{network.id}. The mac address {mac} is in use."
            )
        return mac
    while True:
        mac = addresses.new_mac(tx.random_bytes(3))
        if not store.is_mac_taken(tx, network.id, mac):
            return mac


def _groups(
    tx: Tx, who: Caller, wanted: Sequence[str], *, has_security: bool
) -> tuple[SecurityGroupId, ...]:
    if wanted and not has_security:
        raise Invalid(
            "PortSecurityAndIPRequiredForSecurityGroups: Port security must be enabled and port must "
            "have an IP address in order to use security groups."
        )
    known = group_store.groups_by_id(tx, wanted)
    result = []
    for group_id in dict.fromkeys(wanted):
        group = known.get(SecurityGroupId(group_id))
        if group is None or who.reach not in (None, group.project_id):
            group_store.group(tx, who.reach, group_id)  # raises NotFound in its words
        result.append(SecurityGroupId(group_id))
    return tuple(sorted(result))


def _pairs(wishes: Sequence[PairWish], *, has_security: bool) -> tuple[AllowedPair, ...]:
    if wishes and not has_security:
        raise Conflict(
            "AddressPairAndPortSecurityRequired: Port Security must be enabled in order to have "
            "allowed address pairs on a port."
        )
    result = []
    for wish in wishes:
        block = addresses.loose_cidr(wish.ip, "allowed_address_pairs")
        pair = AllowedPair(
            ip=str(block) if "/" in wish.ip else str(block[0]),
            mac=addresses.mac(wish.mac) if wish.mac else None,
        )
        if pair in result:
            raise Invalid(
                "DuplicateAddressPairInRequest: Request contains duplicate address pair: "
                f"ip_address {pair.ip}."
            )
        result.append(pair)
    return tuple(result)


def _merged_options(
    known: Sequence[DhcpOption], wishes: Sequence[DhcpOptionWish]
) -> tuple[DhcpOption, ...]:
    """What was known, changed by what is wished; an option without value is dropped."""
    merged = {(o.name, o.ip_version): o for o in known}
    for wish in wishes:
        if wish.ip_version not in (4, 6):
            raise Invalid(
                "InvalidInput: Invalid input for extra_dhcp_opts. Reason: ip_version is 4 or 6."
            )
        if not wish.name.strip():
            raise Invalid(
                "InvalidInput: Invalid input for extra_dhcp_opts. Reason: opt_name is blank."
            )
        key = (wish.name, wish.ip_version)
        if wish.value is None:
            merged.pop(key, None)
        else:
            merged[key] = DhcpOption(name=wish.name, value=wish.value, ip_version=wish.ip_version)
    return tuple(merged[key] for key in sorted(merged))


def _vnic_type(wanted: str) -> str:
    if wanted not in VNIC_TYPES:
        raise Invalid(
            f"InvalidInput: Invalid input for binding:vnic_type. Reason: '{wanted[:40]}' is not in "
            f"{list(VNIC_TYPES)}."
        )
    return wanted


def _plain_changes(wish: PortWish) -> dict[str, object]:
    """Columns that are written as they are said."""
    values: dict[str, object] = {
        name: value
        for name in (
            "name",
            "description",
            "is_enabled",
            "device_id",
            "device_owner",
            "has_security",
        )
        if (value := getattr(wish, name)) is not UNSET
    }
    if wish.host is not UNSET:
        values["host"] = said(wish.host, None) or ""
    if wish.vnic_type is not UNSET:
        values["vnic_type"] = _vnic_type(said(wish.vnic_type, None) or "normal")
    if wish.profile is not UNSET:
        values["profile"] = said(wish.profile, None) or {}
    return values


def _replace_addresses(tx: Tx, port: Port, network: Network, mac: str, wish: PortWish) -> None:
    subnets = network_store.subnets_of(tx, [network.id])
    automatic = {s.id for s in subnets if s.is_automatic}
    if wish.fixed_ips is UNSET:
        # Only the MAC changed, and with it what follows from it.
        held = tuple(a for a in port.addresses if a.subnet_id not in automatic)
        held += tuple(
            Address(
                subnet_id=s.id,
                ip=addresses.autoconfigured(addresses.cidr(s.cidr, "cidr"), mac),
            )
            for s in subnets
            if s.is_automatic
        )
    else:
        held = allocation.addresses_for(
            tx, network, subnets, mac, listed(wish.fixed_ips), keep=port.addresses
        )
    if port.is_ours and {a.subnet_id for a in held} != {a.subnet_id for a in port.addresses}:
        raise Conflict(
            f"PortInUse: Port {port.id} is a leg of router {port.device_id}: it keeps its subnets, add "
            "or remove a router interface instead."
        )
    store.set_addresses(tx, port.id, held)
    if {a.ip for a in port.addresses} - {a.ip for a in held}:
        for floating in routers.floating_ips_of_ports(tx, [port.id]):
            if floating.fixed_ip not in {a.ip for a in held}:
                resources.change(
                    tx,
                    tables.floating_ips,
                    floating.id,
                    {"port_id": None, "fixed_ip": None, "router_id": None},
                )


def release_device(tx: Tx, port: Port) -> None:
    """The port is nobody's again: its server or router has let go of it."""
    resources.change(
        tx,
        tables.ports,
        port.id,
        {
            "device_id": "",
            "device_owner": "",
            "node_id": None,
            "host": "",
            "is_up": False,
            "seen_number": 0,
        },
    )
