"""The cloud itself over the API: zones, hosts as hypervisors and services, extensions, usage."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from cairn.compute import bodies, store
from cairn.compute.bodies import Strict
from cairn.compute.records import STATUSES, Search, Server
from cairn.compute.shapes import minor_of, time_text
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId, ProjectId, ServerId
from cairn.db.engine import Tx
from cairn.fleet import loss
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.http.versions import Version
from cairn.placement import service as placement
from cairn.placement.records import MEMORY_RESERVED_MIB, Amounts

BINARY = "nova-compute"
USAGE_SERVERS_MAX = 1000  # of a usage report, the newest


# --- zones -------------------------------------------------------------------------------------------


def list_zones(tx: Tx, call: Call[None]) -> Any:
    return _zones(tx, with_hosts=False)


def list_zones_in_detail(tx: Tx, call: Call[None]) -> Any:
    return _zones(tx, with_hosts=True)


def _zones(tx: Tx, *, with_hosts: bool) -> Any:
    nodes = _compute_nodes(tx)
    found = []
    for zone in sorted({node.zone for node in nodes}):
        here = [node for node in nodes if node.zone == zone]
        hosts = {node.hostname: {BINARY: _zone_service(node)} for node in here}
        found.append(
            {
                "zoneName": zone,
                "zoneState": {"available": any(node.enabled for node in here)},
                "hosts": hosts if with_hosts else None,
            }
        )
    return {"availabilityZoneInfo": found}


def _zone_service(node: Node) -> dict[str, Any]:
    return {
        "active": node.enabled,
        "available": node.state is NodeState.UP,
        "updated_at": _precise(node.state_since),
    }


# --- hypervisors -------------------------------------------------------------------------------------


def list_hypervisors(tx: Tx, call: Call[None]) -> Any:
    nodes, links = _page(call, _hypervisors(tx, call))
    servers = _servers_of(tx, call, nodes)
    minor = minor_of(call)
    return {"hypervisors": [_brief(node, minor) | _with(servers, node) for node in nodes], **links}


def list_hypervisors_in_detail(tx: Tx, call: Call[None]) -> Any:
    nodes, links = _page(call, _hypervisors(tx, call))
    servers = _servers_of(tx, call, nodes)
    taken = {n: room.taken for n, room in placement.rooms(tx, nodes).items()}
    counts = store.running_by_node(tx)
    minor = minor_of(call)
    return {
        "hypervisors": [
            _detail(node, minor, taken.get(node.id, Amounts()), counts.get(node.id, 0))
            | _with(servers, node)
            for node in nodes
        ],
        **links,
    }


def show_hypervisor(tx: Tx, call: Call[None]) -> Any:
    minor = minor_of(call)
    node = _node_by_shown_id(tx, call.path["hypervisor_id"], minor, "Hypervisor with ID")
    taken = placement.rooms(tx, [node])
    count = store.running_by_node(tx).get(node.id, 0)
    servers = _servers_of(tx, call, [node])
    room = taken.get(node.id)
    shown = _detail(node, minor, room.taken if room else Amounts(), count)
    if minor >= 88:
        shown["uptime"] = _uptime(node, tx.now)
    return {"hypervisor": shown | _with(servers, node)}


def show_uptime(tx: Tx, call: Call[None]) -> Any:
    """Until 2.87; then it is part of the hypervisor."""
    minor = minor_of(call)
    node = _node_by_shown_id(tx, call.path["hypervisor_id"], minor, "Hypervisor with ID")
    uptime = _uptime(node, tx.now)
    if uptime is None:
        raise Invalid(f"The uptime of host {node.hostname} is not known: it has not reported.")
    return {"hypervisor": _brief(node, minor) | {"uptime": uptime}}


def search_hypervisors(tx: Tx, call: Call[None]) -> Any:
    """Until 2.52; then the list's own `hypervisor_hostname_pattern`."""
    found = _matching(_compute_nodes(tx), call.path["hypervisor_id"])
    return {"hypervisors": [_brief(node, minor_of(call)) for node in found]}


def list_servers_of_hypervisors(tx: Tx, call: Call[None]) -> Any:
    """Until 2.52; then the list's own `with_servers`."""
    found = _matching(_compute_nodes(tx), call.path["hypervisor_id"])
    servers = store.names_by_node(tx, [node.id for node in found])
    minor = minor_of(call)
    return {"hypervisors": [_brief(node, minor) | _with(servers, node) for node in found]}


def show_statistics(tx: Tx, call: Call[None]) -> Any:
    nodes = [node for node in _compute_nodes(tx) if node.state is NodeState.UP and node.facts]
    taken = placement.rooms(tx, nodes)
    counts = store.running_by_node(tx)
    rows = [_amounts(node, taken[node.id].taken, counts.get(node.id, 0)) for node in nodes]
    sums = {key: sum(row[key] for row in rows) for key in _AMOUNTS}
    return {"hypervisor_statistics": {"count": len(nodes), **sums}}


_AMOUNTS = (
    "vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "free_ram_mb", "local_gb", "local_gb_used",
    "free_disk_gb", "disk_available_least", "running_vms", "current_workload",
)  # fmt: skip


def _hypervisors(tx: Tx, call: Call[None]) -> list[Node]:
    nodes = _compute_nodes(tx)
    pattern = call.query.get("hypervisor_hostname_pattern") if call.at_least(2, 53) else None
    if pattern is None:
        return nodes
    if call.query.get("limit") is not None or call.query.get("marker") is not None:
        raise Invalid("Paging over results of hypervisor_hostname_pattern is not possible.")
    return _matching(nodes, pattern)


def _matching(nodes: list[Node], pattern: str) -> list[Node]:
    found = [node for node in nodes if pattern in node.hostname]
    if not found:
        raise NotFound(f"No hypervisor matching '{pattern[:255]}' could be found.")
    return found


def _page(call: Call[None], nodes: list[Node]) -> tuple[list[Node], dict[str, Any]]:
    """One page of the list and the link to the next: since 2.33."""
    if not call.at_least(2, 33):
        return nodes, {}
    page, minor = pages.page_of(call), minor_of(call)
    if page.marker is not None:
        places = [i for i, n in enumerate(nodes) if str(_shown_id(n, minor)) == page.marker]
        if not places:
            raise Invalid(f"Marker {page.marker[:64]} could not be found.")
        nodes = nodes[places[0] + 1 :]
    found = nodes[: page.limit]
    if not found or len(found) == len(nodes):
        return found, {}
    href = pages.next_link(call, str(_shown_id(found[-1], minor)))
    return found, {"hypervisors_links": [{"rel": "next", "href": href}]}


def _uptime(node: Node, now: datetime) -> str | None:
    """As `uptime` says it, which clients take apart: since the start that the host tells, with the load
    of its last report; who is signed in there nobody asks."""
    said = {seen.name: seen.found for seen in node.health}
    words = said.get("boot", "").split()
    if len(words) < 3:
        return None
    load = ", ".join(said.get("pressure", "").split()[1:4]) or "-, -, -"
    up = now - datetime.fromisoformat(words[2].rstrip(","))
    hours, minutes = divmod(int(up.total_seconds()) % 86400 // 60, 60)
    return f" {now:%H:%M:%S} up {up.days} days, {hours:2}:{minutes:02},  0 users,  load average: {load}"


def _servers_of(
    tx: Tx, call: Call[None], nodes: list[Node]
) -> dict[NodeId, list[tuple[ServerId, str]]] | None:
    """Servers by host, where the request asks for them (since 2.53)."""
    wanted = call.query.boolean("with_servers") if call.at_least(2, 53) else False
    return store.names_by_node(tx, [node.id for node in nodes]) if wanted else None


def _with(servers: dict[NodeId, list[tuple[ServerId, str]]] | None, node: Node) -> dict[str, Any]:
    if servers is None or not servers.get(node.id):
        return {}
    return {"servers": [{"uuid": i, "name": name} for i, name in servers[node.id]]}


def _brief(node: Node, minor: int) -> dict[str, Any]:
    return {
        "id": _shown_id(node, minor),
        "hypervisor_hostname": node.hostname,
        "state": "up" if node.state is NodeState.UP else "down",
        "status": "enabled" if node.enabled else "disabled",
    }


def _detail(node: Node, minor: int, taken: Amounts, count: int) -> dict[str, Any]:
    facts = node.facts
    body = _brief(node, minor) | {
        "host_ip": (facts.address if facts else "") or "127.0.0.1",
        "hypervisor_type": facts.hypervisor if facts else "QEMU",
        "hypervisor_version": facts.hypervisor_version if facts else 0,
        "service": {
            "id": _shown_id(node, minor),
            "host": node.hostname,
            "disabled_reason": node.disabled_reason,
        },
    }
    if minor >= 88:
        return body | {"uptime": None}
    info = {"model": facts.cpu_model if facts else "", "arch": "x86_64", "features": []}
    text = f'{{"model": "{info["model"]}", "arch": "x86_64"}}'
    return body | {"cpu_info": info if minor >= 28 else text} | _amounts(node, taken, count)


def _amounts(node: Node, taken: Amounts, count: int) -> dict[str, int]:
    facts = node.facts
    vcpus, memory, disk = (
        (facts.vcpus, facts.memory_mib, facts.disk_gib) if facts is not None else (0, 0, 0)
    )
    memory_used = min(taken.memory_mib + MEMORY_RESERVED_MIB, memory) if memory else 0
    return {
        "vcpus": vcpus,
        "vcpus_used": taken.vcpus,
        "memory_mb": memory,
        "memory_mb_used": memory_used,
        "free_ram_mb": memory - memory_used,
        "local_gb": disk,
        "local_gb_used": taken.disk_gib,
        "free_disk_gb": disk - taken.disk_gib,
        "disk_available_least": facts.disk_free_gib if facts is not None else 0,
        "running_vms": count,
        "current_workload": 0,
    }


# --- services ----------------------------------------------------------------------------------------


class ChangedService(Strict, frozen=True, kw_only=True):
    status: Literal["enabled", "disabled"] | UnsetType = UNSET
    disabled_reason: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    forced_down: bodies.Flag | UnsetType = UNSET


class NamedService(Strict, frozen=True, kw_only=True):
    host: Annotated[str, Meta(max_length=255)]
    binary: Annotated[str, Meta(max_length=255)]
    disabled_reason: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    forced_down: bodies.Flag | UnsetType = UNSET


def list_services(tx: Tx, call: Call[None]) -> Any:
    host, binary = call.query.get("host"), call.query.get("binary")
    found = [
        node
        for node in _compute_nodes(tx)
        if (host is None or node.hostname == host) and binary in (None, BINARY)
    ]
    return {"services": [_service(node, minor_of(call)) for node in found]}


def update_service(tx: Tx, call: Call[ChangedService]) -> Any:
    asked, minor = call.body, minor_of(call)
    node = _node_by_shown_id(tx, call.path["service_id"], minor, "Compute service")
    if asked.status is UNSET and asked.forced_down is UNSET:
        raise Invalid("One of status and forced_down must be given.")
    if asked.status is UNSET and asked.disabled_reason is not UNSET:
        raise Invalid("disabled_reason belongs to the status disabled.")
    if asked.status == "enabled" and asked.disabled_reason is not UNSET:
        raise Invalid("Specifying 'disabled_reason' when status is 'enabled' is invalid.")
    if asked.forced_down is not UNSET:
        _force_down(tx, node, is_down=bodies.flag(asked.forced_down))
    if asked.status is not UNSET:
        reason = asked.disabled_reason if isinstance(asked.disabled_reason, str) else None
        fleet.set_enabled(tx, node.id, enabled=asked.status == "enabled", reason=reason)
    return {"service": _service(fleet.node(tx, node.id), minor)}


def _force_down(tx: Tx, node: Node, *, is_down: bool) -> None:
    """Nova's word for what we call fencing by hand: somebody made sure that the host is off.

    Raises Conflict: its agent is heard of; or it is to be up again, which only its agent can say."""
    if is_down:
        loss.fence_by_hand(tx, node.id)
    elif _is_forced_down(node):
        raise Conflict(
            f"Host {node.hostname} is {node.state}: it is up again as soon as its agent connects, and "
            "not before."
        )


def _is_forced_down(node: Node) -> bool:
    return node.state in (NodeState.FENCED, NodeState.RECOVERED)


def switch_service(tx: Tx, call: Call[NamedService]) -> Any:
    """Until 2.52: the path says what to do, the body with which service."""
    asked, verb = call.body, call.path["service_id"]
    is_known = verb in ("enable", "disable", "disable-log-reason")
    if not is_known and not (verb == "force-down" and call.at_least(2, 11)):
        raise NotFound("Unknown action")
    if (verb == "force-down") != (asked.forced_down is not UNSET):
        raise Invalid("forced_down belongs to force-down, and only to it.")
    if (verb == "disable-log-reason") != (asked.disabled_reason is not UNSET):
        raise Invalid("disabled_reason belongs to disable-log-reason, and only to it.")
    for node in _compute_nodes(tx):
        if node.hostname == asked.host and asked.binary == BINARY:
            if asked.forced_down is not UNSET:
                is_down = bodies.flag(asked.forced_down)
                _force_down(tx, node, is_down=is_down)
                told = {"host": asked.host, "binary": asked.binary, "forced_down": is_down}
                return {"service": told}
            reason = asked.disabled_reason if isinstance(asked.disabled_reason, str) else None
            fleet.set_enabled(tx, node.id, enabled=verb == "enable", reason=reason)
            status = "enabled" if verb == "enable" else "disabled"
            body = {"host": asked.host, "binary": asked.binary, "status": status}
            return {"service": body | ({"disabled_reason": reason} if reason else {})}
    raise NotFound(f"Could not find binary {asked.binary} on host {asked.host}.")


def _service(node: Node, minor: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": _shown_id(node, minor),
        "binary": BINARY,
        "host": node.hostname,
        "zone": node.zone,
        "status": "enabled" if node.enabled else "disabled",
        "state": "up" if node.state is NodeState.UP else "down",
        "updated_at": _precise(node.state_since),
        "disabled_reason": node.disabled_reason,
    }
    if minor >= 11:
        body["forced_down"] = _is_forced_down(node)
    return body


def list_hosts(tx: Tx, call: Call[None]) -> Any:
    zone = call.query.get("zone")
    return {
        "hosts": [
            {"host_name": node.hostname, "service": "compute", "zone": node.zone}
            for node in _compute_nodes(tx)
            if zone in (None, node.zone)
        ]
    }


# --- hosts, shared -----------------------------------------------------------------------------------


def _compute_nodes(tx: Tx) -> list[Node]:
    return [node for node in fleet.nodes(tx) if "compute" in node.roles]


def _shown_id(node: Node, minor: int) -> str | int:
    """The host's id; before 2.53 clients expect a number, so they get one made of it."""
    return node.id if minor >= 53 else _number(node)


def _number(node: Node) -> int:
    digits = "".join(c for c in node.id.lower() if c in "0123456789abcdef")
    return int(digits[:7] or "0", 16)


def _node_by_shown_id(tx: Tx, wanted: str, minor: int, what: str) -> Node:
    for node in _compute_nodes(tx):
        if str(_shown_id(node, minor)) == wanted:
            return node
    raise NotFound(f"{what} '{wanted[:64]}' could not be found.")


def _precise(at: datetime) -> str:
    return time_text(at)[:-1] + ".000000"


# --- extensions --------------------------------------------------------------------------------------

_EXTENSIONS = {
    "os-aggregates": "Aggregates",
    "os-availability-zone": "AvailabilityZone",
    "os-config-drive": "ConfigDrive",
    "os-consoles": "Consoles",
    "os-console-output": "ConsoleOutput",
    "os-extended-status": "ExtendedStatus",
    "os-extended-volumes": "ExtendedVolumes",
    "os-attach-interfaces": "AttachInterfaces",
    "os-hosts": "Hosts",
    "os-hypervisors": "Hypervisors",
    "os-instance-actions": "InstanceActions",
    "os-keypairs": "Keypairs",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-remote-consoles": "Consoles",
    "os-server-tags": "ServerTags",
    "os-services": "Services",
    "os-simple-tenant-usage": "SimpleTenantUsage",
    "os-user-data": "UserData",
    "os-volumes": "Volumes",
    "flavors": "Flavors",
    "limits": "Limits",
    "servers": "Servers",
    "server-metadata": "ServerMetadata",
}
"""Name by alias, as when each of these was a part of its own."""


def list_extensions(tx: Tx, call: Call[None]) -> Any:
    return {"extensions": [_extension(alias) for alias in _EXTENSIONS]}


def show_extension(tx: Tx, call: Call[None]) -> Any:
    alias = call.path["alias"]
    if alias not in _EXTENSIONS:
        raise NotFound(f"No extension found for alias '{alias[:60]}'.")
    return {"extension": _extension(alias)}


def _extension(alias: str) -> dict[str, Any]:
    return {
        "alias": alias,
        "name": _EXTENSIONS[alias],
        "description": "",
        "links": [],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    }


# --- usage -------------------------------------------------------------------------------------------


def list_usage(tx: Tx, call: Call[None]) -> Any:
    start, end = _period(tx, call)
    is_detailed = call.query.get("detailed") == "1"
    by_project: dict[ProjectId, list[Server]] = {}
    for server in store.list_servers(tx, None, Search(limit=USAGE_SERVERS_MAX)):
        by_project.setdefault(server.project_id, []).append(server)
    found = []
    for project_id, servers in sorted(by_project.items()):
        usage = _usage(tx, project_id, servers, start, end)
        if not is_detailed:
            usage.pop("server_usages")
        found.append(usage)
    return {"tenant_usages": found}


def show_usage(tx: Tx, call: Call[None]) -> Any:
    project_id = ProjectId(call.path["project_id"])
    if project_id != call.who.project_id:
        call.require("os_compute_api:os-simple-tenant-usage:other_project")
    start, end = _period(tx, call)
    servers = store.list_servers(tx, project_id, Search(limit=USAGE_SERVERS_MAX))
    if not servers:
        return {"tenant_usage": {}}
    return {"tenant_usage": _usage(tx, project_id, servers, start, end)}


def _period(tx: Tx, call: Call[None]) -> tuple[datetime, datetime]:
    end = _moment(call, "end") or tx.now
    start = _moment(call, "start") or end - timedelta(days=28)
    if start > end:
        raise Invalid("Invalid start time. The start time cannot occur after the end time.")
    return start, end


def _moment(call: Call[None], key: str) -> datetime | None:
    text = call.query.get(key)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise Invalid(f"Datetime is in invalid format: '{text[:40]}'") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _usage(
    tx: Tx, project_id: ProjectId, servers: list[Server], start: datetime, end: datetime
) -> dict[str, Any]:
    rows = []
    for server in servers:
        hours = (min(end, tx.now) - max(start, server.created_at)).total_seconds() / 3600
        if hours >= 0:
            rows.append(_server_usage(tx, server, hours))
    return {
        "tenant_id": project_id,
        "start": time_text(start)[:-1] + ".000000",
        "stop": time_text(end)[:-1] + ".000000",
        "total_hours": sum(row["hours"] for row in rows),
        "total_vcpus_usage": sum(row["hours"] * row["vcpus"] for row in rows),
        "total_memory_mb_usage": sum(row["hours"] * row["memory_mb"] for row in rows),
        "total_local_gb_usage": sum(row["hours"] * row["local_gb"] for row in rows),
        "server_usages": rows,
    }


def _server_usage(tx: Tx, server: Server, hours: float) -> dict[str, Any]:
    return {
        "instance_id": server.id,
        "name": server.name,
        "tenant_id": server.project_id,
        "flavor": server.flavor.name,
        "vcpus": server.flavor.vcpus,
        "memory_mb": server.flavor.memory_mib,
        "local_gb": server.flavor.disk_gib + server.flavor.ephemeral_gib,
        "hours": hours,
        "started_at": _precise(server.created_at),
        "ended_at": None,
        "state": STATUSES[server.state].lower(),
        "uptime": int((tx.now - server.created_at).total_seconds()),
    }


def _route(method: str, path: str, rule: str, do: Any, **options: Any) -> Route:
    return Route(
        method=method, path=f"/v2.1/{path}", rule=f"os_compute_api:{rule}", do=do, **options
    )


_HV, _USAGE = "os-hypervisors", "os-simple-tenant-usage"

ROUTES = (
    _route("GET", "os-availability-zone", "os-availability-zone:list", list_zones),
    _route(
        "GET", "os-availability-zone/detail", "os-availability-zone:detail", list_zones_in_detail
    ),
    _route("GET", _HV, _HV, list_hypervisors),
    _route("GET", _HV + "/detail", _HV, list_hypervisors_in_detail),
    _route("GET", _HV + "/statistics", _HV, show_statistics, until=Version(2, 87)),
    _route("GET", _HV + "/{hypervisor_id}", _HV, show_hypervisor),
    _route("GET", _HV + "/{hypervisor_id}/uptime", _HV, show_uptime, until=Version(2, 87)),
    _route("GET", _HV + "/{hypervisor_id}/search", _HV, search_hypervisors, until=Version(2, 52)),
    _route(
        "GET",
        _HV + "/{hypervisor_id}/servers",
        _HV,
        list_servers_of_hypervisors,
        until=Version(2, 52),
    ),
    _route("GET", "os-services", "os-services:list", list_services),
    _route(
        "PUT",
        "os-services/{service_id}",
        "os-services:update",
        switch_service,
        body=NamedService,
        until=Version(2, 52),
    ),
    _route(
        "PUT",
        "os-services/{service_id}",
        "os-services:update",
        update_service,
        body=ChangedService,
        since=Version(2, 53),
    ),
    _route("GET", "os-hosts", "os-hosts", list_hosts, until=Version(2, 42)),
    _route("GET", "extensions", "extensions", list_extensions),
    _route("GET", "extensions/{alias}", "extensions", show_extension),
    _route("GET", _USAGE, f"{_USAGE}:list", list_usage),
    _route("GET", _USAGE + "/{project_id}", f"{_USAGE}:show", show_usage),
)
