"""Who may do what, and who may say or see which attribute. Rule names as in OpenStack.

A line `create_network:shared` is asked only when the body says that attribute; a line `get_port:...`
decides whether the attribute is shown. Whose things they are is the verbs' matter: a foreign project's
resource does not exist for others.
"""

_READ = "rule:project_reader"
_WRITE = "rule:project_member"
_ADMIN = "rule:admin"

_NOUNS = (
    "network",
    "subnet",
    "subnetpool",
    "port",
    "router",
    "floatingip",
    "security_group",
    "security_group_rule",
)

_ADMINS_TO_SAY = {
    "network": (
        "shared",
        "router:external",
        "is_default",
        "provider:network_type",
        "provider:physical_network",
        "provider:segmentation_id",
    ),
    "subnetpool": ("shared", "is_default"),
    "port": ("binding:host_id", "binding:profile"),
    "router": ("external_gateway_info:external_fixed_ips",),
    "floatingip": ("floating_ip_address",),
}

ADMINS_TO_SEE = {
    "network": (
        "provider:network_type",
        "provider:physical_network",
        "provider:segmentation_id",
    ),
    "port": (
        "binding:host_id",
        "binding:profile",
        "binding:vif_type",
        "binding:vif_details",
    ),
}

POLICY: dict[str, str] = {
    **{f"get_{noun}": _READ for noun in _NOUNS},
    **{f"{verb}_{noun}": _WRITE for verb in ("create", "update", "delete") for noun in _NOUNS},
    **{
        f"{verb}_{noun}:{attribute}": _ADMIN
        for noun, attributes in _ADMINS_TO_SAY.items()
        for attribute in attributes
        for verb in ("create", "update")
    },
    **{
        f"get_{noun}:{attribute}": _ADMIN
        for noun, attributes in ADMINS_TO_SEE.items()
        for attribute in attributes
    },
    "get_tags": _READ,
    "update_tags": _WRITE,
    "add_router_interface": _WRITE,
    "remove_router_interface": _WRITE,
    "add_extraroutes": _WRITE,
    "remove_extraroutes": _WRITE,
    "get_quota": _READ,
    "get_quotas": _ADMIN,
    "update_quota": _ADMIN,
    "delete_quota": _ADMIN,
    "get_agent": _ADMIN,
    "update_agent": _ADMIN,
    "list_agents": _READ,
    "get_availability_zone": _READ,
    "get_network_ip_availability": _ADMIN,
    "get_service_provider": _READ,
    "get_extension": _READ,
}
