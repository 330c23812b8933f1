"""What the services' answers look like, for the document of the API; tests hold it against what they answer.

A shape says which fields there are and of which type, not all that may be in them: a client's program that
reads the document gets names and types, and fields that are not here are no mistake.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, defstruct

from cairn.http.routes import Route, Service
from cairn.replies import compute, identity, network, storage


class Shown(Struct, frozen=True):
    """A collection: what lies in a list, and alone."""

    path: str
    many: str  # the list's name in its answer
    kind: Any
    one: str = ""  # the name of a single one in its answer; "": single ones are not declared
    query: tuple[str, ...] = ()
    bare: bool = False  # a single one stands in its answer without a name


_PAGE = ("limit", "marker")
_SORTED = (*_PAGE, "sort_key", "sort_dir")

TABLES: Mapping[str, tuple[Shown, ...]] = {
    "keystone": (
        Shown("/v3/domains", "domains", identity.Domain, "domain", ("name", "enabled", *_PAGE)),
        Shown(
            "/v3/projects",
            "projects",
            identity.Project,
            "project",
            (
                "name",
                "domain_id",
                "parent_id",
                "enabled",
                "is_domain",
                "tags",
                "tags-any",
                "not-tags",
                "not-tags-any",
                *_PAGE,
            ),
        ),
        Shown(
            "/v3/users", "users", identity.User, "user", ("name", "domain_id", "enabled", *_PAGE)
        ),
        Shown("/v3/groups", "groups", identity.Group, "group", ("name", "domain_id", *_PAGE)),
        Shown("/v3/roles", "roles", identity.Role, "role", ("name", "domain_id", *_PAGE)),
        Shown("/v3/regions", "regions", identity.Region, "region", ("parent_region_id",)),
        Shown("/v3/services", "services", identity.CatalogService, "service", ("name", "type")),
        Shown(
            "/v3/endpoints",
            "endpoints",
            identity.Endpoint,
            "endpoint",
            ("interface", "service_id", "region_id"),
        ),
        Shown(
            "/v3/credentials", "credentials", identity.Credential, "credential", ("user_id", "type")
        ),
        Shown("/v3/policies", "policies", identity.StoredPolicy, "policy", ("type",)),
        Shown(
            "/v3/registered_limits",
            "registered_limits",
            identity.RegisteredLimit,
            query=("service_id", "region_id", "resource_name"),
        ),
        Shown("/v3/limits", "limits", identity.Limit, query=("service_id", "resource_name")),
        Shown(
            "/v3/role_assignments",
            "role_assignments",
            identity.RoleAssignment,
            query=(
                "user.id",
                "group.id",
                "role.id",
                "scope.project.id",
                "scope.domain.id",
                "scope.system",
                "scope.OS-INHERIT:inherited_to",
                "effective",
                "include_names",
                "include_subtree",
            ),
        ),
    ),
    "nova": (
        Shown("/v2.1/servers", "servers", compute.ServerName, query=("name", "status", *_SORTED)),
        Shown(
            "/v2.1/servers/detail", "servers", compute.Server, query=("name", "status", *_SORTED)
        ),
        Shown("/v2.1/flavors", "flavors", compute.FlavorName, query=_SORTED),
        Shown("/v2.1/flavors/detail", "flavors", compute.Flavor, query=_SORTED),
        Shown("/v2.1/os-keypairs", "keypairs", compute.Keypair, query=_PAGE),
        Shown("/v2.1/os-aggregates", "aggregates", compute.Aggregate),
    ),
    "neutron": tuple(
        Shown(f"/v2.0/{path}", many, kind, one, ("id", "name", "project_id", "fields", *_SORTED))
        for path, many, kind, one in (
            ("networks", "networks", network.Network, "network"),
            ("subnets", "subnets", network.Subnet, "subnet"),
            ("subnetpools", "subnetpools", network.SubnetPool, "subnetpool"),
            ("ports", "ports", network.Port, "port"),
            ("routers", "routers", network.Router, "router"),
            ("floatingips", "floatingips", network.FloatingIp, "floatingip"),
            ("security-groups", "security_groups", network.SecurityGroup, "security_group"),
            (
                "security-group-rules",
                "security_group_rules",
                network.SecurityGroupRule,
                "security_group_rule",
            ),
        )
    ),
    "cinder": (
        Shown("/v3/volumes/detail", "volumes", storage.Volume, query=("name", "status", *_SORTED)),
        Shown("/v3/snapshots/detail", "snapshots", storage.Snapshot, query=_SORTED),
        Shown("/v3/types", "volume_types", storage.VolumeType, query=_SORTED),
    ),
    "glance": (
        Shown(
            "/v2/images",
            "images",
            storage.Image,
            query=("name", "status", "visibility", "owner", *_SORTED),
            bare=True,
        ),
    ),
}


ALSO: Mapping[str, tuple[int, ...]] = {
    "keystone PUT /v3/domains/{domain}/config": (201,),  # the first time
    "nova POST /v2.1/os-keypairs": (201,),  # from 2.2 on
    "nova PUT /v2.1/servers/{server_id}/tags/{tag}": (204,),  # it was there
    "cinder POST /v3/volumes/{volume_id}/action": (200,),  # some actions are done at once
    "cinder POST /v3/{project_id}/volumes/{volume_id}/action": (200,),
}
"""Routes whose good answers have more than one status."""


def declared(services: Iterable[Service]) -> list[Service]:
    """The services, their routes with the replies and filters that are known here."""
    return [msgspec.structs.replace(s, routes=_declared(s)) for s in services]


def _declared(service: Service) -> tuple[Route, ...]:
    said: dict[tuple[str, str], dict[str, Any]] = {}
    for shown in TABLES.get(service.name, ()):
        whole = _wrapped(shown.kind, shown.many, list[shown.kind])  # type: ignore[name-defined]
        said["GET", shown.path] = {"reply": whole, "query": shown.query}
        if not shown.one and not shown.bare:
            continue
        one = shown.kind if shown.bare else _wrapped(shown.kind, shown.one, shown.kind)
        said["POST", shown.path] = {"reply": one}
        for method in ("GET", "PUT", "PATCH"):
            said[method, f"{shown.path}/{{}}"] = {"reply": one}
    return tuple(_with(_also(service, route), said) for route in service.routes)


def _also(service: Service, route: Route) -> Route:
    also = ALSO.get(f"{service.name} {route.method} {route.path}", ())
    return msgspec.structs.replace(route, also=also) if also else route


def _with(route: Route, said: Mapping[tuple[str, str], dict[str, Any]]) -> Route:
    start, slash, last = route.path.rpartition("/")
    form = f"{start}{slash}{{}}" if last.startswith("{") else route.path
    known = said.get((route.method, form))
    if known is None or route.status == 204:
        return route
    return msgspec.structs.replace(route, **known)


def _wrapped(kind: Any, name: str, inner: Any) -> Any:
    """`{"project": ...}`, as a type."""
    words = "".join(word.capitalize() for word in name.split("_"))
    title = f"{kind.__name__}As{words}"
    return defstruct(title, [(name, inner)], frozen=True, kw_only=True)
