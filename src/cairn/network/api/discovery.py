"""Versions and extensions: what clients look at before they trust a feature to be there.

The list of extensions names only what is really served: a client that reads an alias here uses it.
"""

from typing import Any

from msgspec import Struct

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network.api.resource import Shown

UPDATED = "2026-01-01T00:00:00-00:00"


class _Extension(Struct, frozen=True):
    alias: str
    name: str
    description: str


EXTENSIONS = tuple(
    _Extension(*row)
    for row in (
        ("agent", "agent", "Hosts' parts in the network."),
        ("allowed-address-pairs", "Allowed Address Pairs", "Addresses beside a port's own."),
        ("availability_zone", "Availability Zone", "Zones of the network."),
        ("binding", "Port Binding", "Where a port is bound."),
        ("default-subnetpools", "Default Subnetpools", "Subnets from a pool nobody named."),
        ("empty-string-filtering", "Empty String Filtering Extension", "Filters by what is unset."),
        ("ext-gw-mode", "Neutron L3 Configurable external gateway mode", "Gateways without SNAT."),
        ("external-net", "Neutron external network", "Networks that lead outside."),
        ("extra_dhcp_opt", "Neutron Extra DHCP options", "DHCP options of a port."),
        ("extraroute", "Neutron Extra Route", "Routes of a router."),
        ("extraroute-atomic", "Atomically add/remove extra routes", "One route at a time."),
        ("filter-validation", "Filter parameters validation", "Unknown filters are refused."),
        ("fip-port-details", "Floating IP Port Details Extension", "The port behind an address."),
        ("ip-substring-filtering", "IP address substring filtering", "Ports by part of an address."),
        ("net-mtu", "Network MTU", "How large packets may be."),
        ("net-mtu-writable", "Network MTU (writable)", "The MTU may be chosen."),
        ("network-ip-availability", "Network IP Availability", "How full networks are."),
        ("network_availability_zone", "Network Availability Zone", "The zone of a network."),
        ("pagination", "Pagination support", "Lists by pages."),
        ("port-security", "Port Security", "Filters of a port may be off."),
        ("port-security-groups-filtering", "Port filtering on security groups", "Ports by group."),
        ("project-id", "project_id field enabled", "tenant_id is project_id."),
        ("provider", "Provider Network", "Networks on physical networks."),
        ("quota_details", "Quota details management support", "Limits with their use."),
        ("quotas", "Quota management support", "Limits of projects."),
        ("revision-if-match", "If-Match constraints based on revision_number", "No lost update."),
        ("router", "Neutron L3 Router", "Routers and floating IPs."),
        ("router_availability_zone", "Router Availability Zone", "The zone of a router."),
        ("security-group", "security-group", "Filters of ports."),
        ("security-groups-normalized-cidr", "Normalized CIDR field for rules", "As it is applied."),
        ("service-type", "Neutron Service Type Management", "Providers of services."),
        ("sorting", "Sorting support", "Lists in order."),
        ("standard-attr-description", "standard-attr-description", "Descriptions."),
        ("standard-attr-revisions", "Resource revision numbers", "How often changed."),
        ("standard-attr-tag", "Tag support for resources with standard attribute", "Tags."),
        ("standard-attr-timestamp", "Resource timestamps", "When made and changed."),
        ("stateful-security-group", "Stateful security group", "Groups without state."),
        ("subnet_allocation", "Subnet Allocation", "Subnets from pools."),
        ("tag", "Tag support", "Tags of networks."),
    )
)  # fmt: skip

_COLLECTIONS = {
    "network": "networks",
    "subnet": "subnets",
    "subnetpool": "subnetpools",
    "port": "ports",
    "router": "routers",
    "floatingip": "floatingips",
    "security_group": "security-groups",
    "security_group_rule": "security-group-rules",
    "quota": "quotas",
    "agent": "agents",
    "availability_zone": "availability_zones",
    "extension": "extensions",
}
"""Names of one, and where all are."""


def _versions(tx: Tx, call: Call[None]) -> Shown:
    href = f"{call.base_url}/network/v2.0/"
    return {
        "versions": [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": href}]}]
    }


def _collections(tx: Tx, call: Call[None]) -> Shown:
    def link(path: str) -> Shown:
        return {"rel": "self", "href": f"{call.base_url}/network/v2.0/{path}"}

    return {
        "resources": [
            {"name": name, "collection": path.replace("-", "_"), "links": [link(path)]}
            for name, path in _COLLECTIONS.items()
        ]
    }


def _extensions(tx: Tx, call: Call[Any]) -> Shown:
    return {"extensions": [_extension(e) for e in EXTENSIONS]}


def _one_extension(tx: Tx, call: Call[Any]) -> Shown:
    alias = call.path["alias"]
    for extension in EXTENSIONS:
        if extension.alias == alias:
            return {"extension": _extension(extension)}
    raise NotFound(f"ExtensionNotFound: Extension with alias {alias[:64]} does not exist")


def _extension(extension: _Extension) -> Shown:
    return {
        "alias": extension.alias,
        "name": extension.name,
        "description": extension.description,
        "updated": UPDATED,
        "links": [],
    }


ROUTES = (
    Route(method="GET", path="/", rule=None, do=_versions),
    Route(method="GET", path="/v2.0", rule=None, do=_collections),
    Route(method="GET", path="/v2.0/extensions", rule="get_extension", do=_extensions),
    Route(method="GET", path="/v2.0/extensions/{alias}", rule="get_extension", do=_one_extension),
)
