"""Records as the API shows them: Neutron's attribute names, and the statuses computed from records."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cairn.core.ids import PortId
from cairn.network.records import (
    ROUTER_GATEWAY,
    ROUTER_INTERFACE,
    Address,
    FloatingIp,
    Group,
    Network,
    Port,
    Route,
    Router,
    Rule,
    Subnet,
    SubnetPool,
)

Shown = dict[str, Any]


def network(record: Network) -> Shown:
    return {
        **_standard(record),
        "name": record.name,
        "admin_state_up": record.is_enabled,
        "status": "ACTIVE",
        "subnets": list(record.subnet_ids),
        "shared": record.is_shared,
        "router:external": record.is_external,
        "is_default": record.is_default,
        "mtu": record.mtu,
        "port_security_enabled": record.has_port_security,
        "availability_zone_hints": [],
        "availability_zones": [record.zone],
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
        "provider:network_type": record.kind,
        "provider:physical_network": record.physical_network,
        "provider:segmentation_id": record.segmentation_id,
        "tags": list(record.tags),
    }


def subnet(record: Subnet) -> Shown:
    return {
        **_standard(record),
        "name": record.name,
        "network_id": record.network_id,
        "ip_version": record.ip_version,
        "cidr": record.cidr,
        "gateway_ip": record.gateway_ip,
        "enable_dhcp": record.has_dhcp,
        "allocation_pools": [{"start": p.start, "end": p.end} for p in record.pools],
        "dns_nameservers": list(record.dns),
        "host_routes": _routes(record.routes),
        "ipv6_ra_mode": record.ra_mode,
        "ipv6_address_mode": record.address_mode,
        "subnetpool_id": record.subnet_pool_id,
        "service_types": [],
        "tags": list(record.tags),
    }


def subnet_pool(record: SubnetPool) -> Shown:
    return {
        **_standard(record),
        "name": record.name,
        "ip_version": record.ip_version,
        "prefixes": list(record.prefixes),
        "default_prefixlen": record.prefix_length_default,
        "min_prefixlen": record.prefix_length_min,
        "max_prefixlen": record.prefix_length_max,
        "default_quota": record.quota,
        "address_scope_id": None,
        "shared": record.is_shared,
        "is_default": record.is_default,
        "tags": list(record.tags),
    }


def port(record: Port) -> Shown:
    is_bound = bool(record.host)
    return {
        **_standard(record),
        "name": record.name,
        "network_id": record.network_id,
        "mac_address": record.mac,
        "admin_state_up": record.is_enabled,
        "status": port_status(record),
        "device_id": record.device_id,
        "device_owner": record.device_owner,
        "fixed_ips": fixed_ips(record.addresses),
        "security_groups": list(record.group_ids),
        "port_security_enabled": record.has_security,
        "allowed_address_pairs": [
            {"ip_address": p.ip, "mac_address": p.mac or record.mac} for p in record.pairs
        ],
        "extra_dhcp_opts": [
            {"opt_name": o.name, "opt_value": o.value, "ip_version": o.ip_version}
            for o in record.dhcp_options
        ],
        "binding:host_id": record.host,
        "binding:vnic_type": record.vnic_type,
        "binding:vif_type": "ovs" if is_bound else "unbound",
        "binding:vif_details": {"port_filter": True, "connectivity": "l2"} if is_bound else {},
        "binding:profile": record.profile,
        "tags": list(record.tags),
    }


def port_status(record: Port) -> str:
    """Routers' ports live in every host's flows and have no process to wait for."""
    is_routers = record.device_owner in (ROUTER_INTERFACE, ROUTER_GATEWAY)
    return "ACTIVE" if record.is_up or is_routers else "DOWN"


def fixed_ips(addresses: Sequence[Address]) -> list[dict[str, str]]:
    return [{"subnet_id": a.subnet_id, "ip_address": a.ip} for a in addresses]


def router(record: Router) -> Shown:
    gateway = record.gateway
    return {
        **_standard(record),
        "name": record.name,
        "admin_state_up": record.is_enabled,
        "status": "ACTIVE",
        "external_gateway_info": {
            "network_id": gateway.network_id,
            "enable_snat": record.has_snat,
            "external_fixed_ips": fixed_ips(gateway.addresses),
        }
        if gateway
        else None,
        "routes": _routes(record.routes),
        "availability_zone_hints": [],
        "availability_zones": [record.zone],
        "tags": list(record.tags),
    }


def floating_ip(record: FloatingIp, ports: Mapping[PortId, Port]) -> Shown:
    inside = ports.get(record.port_id) if record.port_id else None
    return {
        **_standard(record),
        "floating_network_id": record.network_id,
        "floating_ip_address": record.ip,
        "fixed_ip_address": record.fixed_ip,
        "port_id": record.port_id,
        "router_id": record.router_id,
        "status": "ACTIVE" if record.port_id else "DOWN",
        "port_details": {
            "name": inside.name,
            "network_id": inside.network_id,
            "mac_address": inside.mac,
            "admin_state_up": inside.is_enabled,
            "status": port_status(inside),
            "device_id": inside.device_id,
            "device_owner": inside.device_owner,
        }
        if inside
        else None,
        "tags": list(record.tags),
    }


def group(record: Group) -> Shown:
    return {
        **_standard(record),
        "name": record.name,
        "stateful": record.is_stateful,
        "shared": False,
        "security_group_rules": [rule(r) for r in record.rules],
        "tags": list(record.tags),
    }


def rule(record: Rule) -> Shown:
    return {
        **_standard(record),
        "security_group_id": record.group_id,
        "direction": record.direction,
        "ethertype": record.ethertype,
        "protocol": record.protocol,
        "port_range_min": record.port_min,
        "port_range_max": record.port_max,
        "remote_ip_prefix": record.remote_cidr,
        "normalized_cidr": record.remote_cidr,
        "remote_group_id": record.remote_group_id,
    }


def time(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _standard(
    record: Network | Subnet | SubnetPool | Port | Router | FloatingIp | Group | Rule,
) -> Shown:
    return {
        "id": record.id,
        "project_id": record.project_id,
        "tenant_id": record.project_id,
        "description": record.description,
        "created_at": time(record.made_at),
        "updated_at": time(record.changed_at),
        "revision_number": record.revision,
    }


def _routes(routes: Sequence[Route]) -> list[dict[str, str]]:
    return [{"destination": r.destination, "nexthop": r.nexthop} for r in routes]
