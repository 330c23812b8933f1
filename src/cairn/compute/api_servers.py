"""Servers over the API: create, list, show, update, delete, and what hangs on one (metadata, tags, ips)."""

import re
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET

from cairn.compute import birth, bodies, service, shapes, store
from cairn.compute.birth import DiskWish, ServerWish
from cairn.compute.bodies import CreateServer, Item, Items, NewDisk, NewServer, UpdateServer
from cairn.compute.plugs import NicWish
from cairn.compute.records import STATUSES, Search, Server, ServerState
from cairn.compute.shapes import Frame, minor_of
from cairn.core.errors import Denied, Invalid, NotFound
from cairn.core.ids import FlavorId, ImageId, ProjectId, ServerId, UserId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.http.versions import Version
from cairn.network import service as network
from cairn.network.records import AddressPart

ATTRIBUTES = "os_compute_api:os-extended-server-attributes"
COUNT_MAX = 1000  # servers of one call; a project's limits end it long before
QUANTIFIERS_MAX = 3  # of a name's pattern: more make matching slow without bound
_ADDRESS_PATTERN = re.compile(r"(\^?)((?:[0-9A-Fa-f:.]|\\\.)*)(\$?)")


def create(tx: Tx, call: Call[CreateServer]) -> Reply:
    asked = call.body.server
    if call.body.hints or call.body.old_hints:
        # Ignored, a hint such as "on different hosts" would be a promise that nobody keeps.
        raise Invalid("Scheduler hints are not offered; choose an availability zone instead.")
    wish = _wish(call, asked)
    made = birth.create_servers(tx, call.who, wish)
    if bodies.flag(asked.wants_reservation):
        return Reply(body={"reservation_id": made[0].reservation_id})
    server = made[0]
    root = f"{call.base_url}/compute"
    body: dict[str, Any] = {
        "id": server.id,
        "links": shapes.links(root, "servers", server.id),
        "OS-DCF:diskConfig": server.disk_config,
        "security_groups": [{"name": name} for name in server.groups],
        "adminPass": server.admin_password,
    }
    location = f"{root}/v2.1/servers/{server.id}"
    return Reply(body={"server": body}, headers={"Location": location})


def show(tx: Tx, call: Call[None]) -> Any:
    server = service.get(tx, call.who, server_id(call))
    return {"server": shapes.detail(server, frame_of(tx, call, [server]), in_list=False)}


def index(tx: Tx, call: Call[None]) -> Any:
    found = _found(tx, call, "os_compute_api:servers:index:get_all_tenants")
    frame = Frame(minor=minor_of(call), root=root_of(call), is_admin=False)
    return _page(call, found, [shapes.brief(server, frame) for server in found])


def detail(tx: Tx, call: Call[None]) -> Any:
    found = _found(tx, call, "os_compute_api:servers:detail:get_all_tenants")
    frame = frame_of(tx, call, found)
    return _page(call, found, [shapes.detail(server, frame, in_list=True) for server in found])


def update(tx: Tx, call: Call[UpdateServer]) -> Any:
    asked = call.body.server
    bodies.require_version(asked, minor_of(call))
    changes: dict[str, object] = {}
    if asked.name is not UNSET:
        changes["name"] = bodies.name_of(asked.name)
    if asked.description is not UNSET:
        changes["description"] = asked.description
    if asked.hostname is not UNSET:
        changes["hostname"] = _hostname(call, asked.hostname)
    if asked.disk_config is not UNSET:
        changes["disk_config"] = asked.disk_config
    if asked.access_ipv4 is not UNSET:
        changes["access_ipv4"] = bodies.address(asked.access_ipv4, 4)
    if asked.access_ipv6 is not UNSET:
        changes["access_ipv6"] = bodies.address(asked.access_ipv6, 6)
    server = service.update(tx, call.who, server_id(call), changes)
    return {"server": shapes.updated(server, frame_of(tx, call, [server]))}


def delete(tx: Tx, call: Call[None]) -> None:
    service.delete(tx, call.who, server_id(call))


# --- shared with the other files of the API ----------------------------------------------------------


def server_id(call: Call[Any]) -> ServerId:
    return ServerId(call.path["server_id"])


def root_of(call: Call[Any]) -> str:
    return f"{call.base_url}/compute"


def frame_of(tx: Tx, call: Call[Any], servers: list[Server]) -> Frame:
    """Disks and ports of all these servers, and for administrators their hosts, one query set each."""
    ids = [server.id for server in servers]
    is_admin = call.may(ATTRIBUTES)
    placed = [server.node_id for server in servers if server.node_id is not None]
    return Frame(
        minor=minor_of(call),
        root=root_of(call),
        is_admin=is_admin,
        disks=store.disks_of(tx, ids),
        ports=network.server_ports(tx, ids) if ids else {},
        nodes=fleet.glances(tx, placed) if is_admin and placed else {},
    )


# --- create ------------------------------------------------------------------------------------------


def _wish(call: Call[CreateServer], asked: NewServer) -> ServerWish:
    minor = minor_of(call)
    bodies.require_version(asked, minor)
    if asked.personality is not UNSET and asked.personality:
        raise Invalid("Personality files are not offered; use user_data or a config drive.")
    for name in ("host", "hypervisor_hostname"):
        if getattr(asked, name) is not UNSET:
            raise Denied(f"Choosing the {name} of a new server is not offered.")
    count_min = bodies.integer(asked.min_count, "min_count", minimum=1) or 1
    count = bodies.integer(asked.max_count, "max_count", minimum=1) or count_min
    if count < count_min:
        raise Invalid("min_count must be <= max_count")
    if count > COUNT_MAX:
        raise Invalid(f"max_count must be at most {COUNT_MAX}")
    return ServerWish(
        name=bodies.name_of(asked.name),
        flavor_id=FlavorId(_last_of(str(asked.flavor))),
        image_id=ImageId(_last_of(asked.image)) if asked.image else None,
        disks=tuple(_disk(disk, minor) for disk in asked.disks),
        nics=_nics(asked, minor),
        groups=tuple(dict.fromkeys(g.name for g in asked.groups)) or ("default",),
        key_name=asked.key_name,
        user_data=asked.user_data,
        has_config_drive=bodies.flag(asked.config_drive),
        metadata=asked.metadata,
        tags=() if asked.tags is UNSET else tuple(bodies.tag_of(t) for t in asked.tags),
        zone=asked.zone or None,
        description=None if asked.description is UNSET else asked.description,
        hostname=None if asked.hostname is UNSET else _hostname(call, asked.hostname),
        admin_password=asked.admin_password or None,
        disk_config=asked.disk_config,
        access_ipv4=bodies.address(asked.access_ipv4, 4),
        access_ipv6=bodies.address(asked.access_ipv6, 6),
        count=count,
        is_numbered=count > 1,
    )


def _last_of(reference: str) -> str:
    """An id, or the last part of an address that ends in one."""
    return reference.rstrip("/").rsplit("/", 1)[-1]


def _hostname(call: Call[Any], text: str) -> str:
    return bodies.hostname_of(text, allows_domain=call.at_least(2, 94))


def _nics(asked: NewServer, minor: int) -> tuple[NicWish, ...] | None:
    """None: the usual network. Since 2.37 the caller has to say so, with "auto" or "none"."""
    nics = asked.nics
    if nics is UNSET or nics is None:
        if minor >= 37:
            raise Invalid("Invalid input for field/attribute server: 'networks' is required.")
        return None
    if isinstance(nics, str):
        if minor < 37 or nics not in ("auto", "none"):
            raise Invalid(
                "Invalid input for field/attribute networks: a list, or since 2.37 'auto' or 'none'."
            )
        return () if nics == "none" else None
    if not nics:
        return None
    if minor < 32 and any(nic.tag is not None for nic in nics):
        raise Invalid("Additional properties are not allowed ('tag' was unexpected).")
    return tuple(
        NicWish(
            network_id=None if nic.port_id else nic.network_id,
            port_id=nic.port_id,
            fixed_ip=nic.fixed_ip,
            tag=nic.tag,
        )
        for nic in nics
    )


def _disk(disk: NewDisk, minor: int) -> DiskWish:
    if disk.source_type != "blank" and not disk.uuid:
        raise Invalid(
            "Block Device Mapping is Invalid: 'uuid' is needed unless source_type is blank."
        )
    if minor < 67 and disk.volume_type is not None:
        raise Invalid("Additional properties are not allowed ('volume_type' was unexpected).")
    to_volume = (disk.destination_type or "") == "volume" or disk.source_type in (
        "volume",
        "snapshot",
    )
    if disk.destination_type == "local" and disk.source_type in ("volume", "snapshot"):
        raise Invalid("Block Device Mapping is Invalid: a volume cannot become a local disk.")
    return DiskWish(
        source=disk.source_type,
        id=disk.uuid,
        to_volume=to_volume,
        size_gib=bodies.integer(disk.volume_size or None, "volume_size", minimum=1),
        boot_index=bodies.integer(disk.boot_index, "boot_index", minimum=-1),
        delete_on_termination=bodies.flag(disk.delete_on_termination),
        device=disk.device_name,
        tag=disk.tag,
        volume_type=disk.volume_type,
    )


# --- list --------------------------------------------------------------------------------------------


def _found(tx: Tx, call: Call[None], everywhere_rule: str) -> list[Server]:
    word = "all_projects" if "all_projects" in call.query else "all_tenants"
    everywhere = call.query.get(word) == "" or call.query.boolean(word) or False
    if everywhere:
        call.require(everywhere_rule)
    search = _search(tx, call)
    if search is None or search.limit == 0:
        return []
    return service.list_servers(tx, call.who, search, everywhere=everywhere)


def _page(call: Call[None], found: list[Server], items: list[Any]) -> Any:
    body: dict[str, Any] = {"servers": items}
    limit = pages.page_of(call).limit
    if found and len(found) == limit:
        href = pages.next_link(call, marker=found[-1].id)
        body["servers_links"] = [{"rel": "next", "href": href}]
    return body


def _search(tx: Tx, call: Call[None]) -> Search | None:
    """The query string's question; None when nothing can match it."""
    query = call.query
    page = pages.page_of(call)
    states = _states(call)
    if states == ():
        return None
    may_all = call.may("os_compute_api:servers:allow_all_filters")
    node_ids = None
    host = query.get("host") or query.get("node") or query.get("hypervisor_hostname")
    if may_all and host:
        node_ids = tuple(fleet.named(tx, host))
    project = query.get("project_id") or query.get("tenant_id")
    user = query.get("user_id")
    locked = query.boolean("locked") if call.at_least(2, 73) else None
    return Search(
        name=_pattern(query.get("name") or query.get("display_name")),
        states=states,
        project_id=ProjectId(project) if project and may_all else None,
        user_id=UserId(user) if user and may_all else None,
        flavor_id=_typed(FlavorId, query.get("flavor")),
        image_id=_typed(ImageId, query.get("image")),
        node_ids=node_ids,
        server_ids=_ids(tx, call),
        zone=query.get("availability_zone"),
        key_name=query.get("key_name"),
        hostname=query.get("hostname") if call.at_least(2, 90) or may_all else None,
        description=query.get("description"),
        reservation_id=query.get("reservation_id"),
        is_locked=locked,
        has_config_drive=query.boolean("config_drive") if may_all or call.at_least(2, 83) else None,
        power_state=_power_state(query.get("power_state")),
        changed_since=time_of(call, "changes-since"),
        changed_before=time_of(call, "changes-before") if call.at_least(2, 66) else None,
        tags_all=_tags(call, "tags"),
        tags_any=_tags(call, "tags-any"),
        tags_not_all=_tags(call, "not-tags"),
        tags_not_any=_tags(call, "not-tags-any"),
        sort=_sort(call),
        limit=page.limit,
        marker=_typed(ServerId, page.marker),
    )


def _typed(kind: Any, text: str | None) -> Any:
    return kind(_last_of(text)) if text else None


def _states(call: Call[None]) -> tuple[ServerState, ...] | None:
    wanted = [s.upper() for s in call.query.all("status")]
    vm_states = call.query.all("vm_state")
    if not wanted and not vm_states:
        return None
    found = [state for state, status in STATUSES.items() if status in wanted]
    found += [state for state in ServerState if state in vm_states]
    known = {*STATUSES.values(), "DELETED", "SUSPENDED", "PAUSED", "RESCUE", "VERIFY_RESIZE", "REBOOT",
             "HARD_REBOOT", "REBUILD", "RESIZE", "MIGRATING", "PASSWORD", "SHELVED", "SOFT_DELETED",
             "SHELVED_OFFLOADED", "REVERT_RESIZE", "UNKNOWN"}  # fmt: skip
    if call.at_least(2, 38) and (unknown := [s for s in wanted if s not in known]):
        raise Invalid(f"Invalid status value: {unknown[0][:60]}")
    return tuple(found)


def _pattern(text: str | None) -> str | None:
    """A name's pattern, if it is of the kind that matches in bounded time: no groups, few quantifiers."""
    if text is None or text == "":
        return None
    if len(text) > 255 or re.search(r"[(){}|]|\\[0-9a-zA-Z]", text):
        raise Invalid(
            "Query parameter 'name': a pattern of at most 255 characters, without groups, braces, "
            "alternatives and classes like \\d."
        )
    if len(re.findall(r"(?<!\\)[*+?]", text)) > QUANTIFIERS_MAX:
        raise Invalid(f"Query parameter 'name': at most {QUANTIFIERS_MAX} of '*', '+' and '?'.")
    try:
        re.compile(text)
    except re.error as error:
        raise Invalid(f"Query parameter 'name' is no pattern: {error}.") from error
    return text


def _ids(tx: Tx, call: Call[None]) -> tuple[ServerId, ...] | None:
    """Servers asked for by id, by address, or by both."""
    wanted = call.query.all("uuid")
    found = {ServerId(text) for text in wanted} if wanted else None
    for key, version in (("ip", 4), ("ip6", 6)):
        if (text := call.query.get(key)) is not None:
            there = network.servers_with_address(tx, call.who, _address_part(key, text), version)
            found = there if found is None else found & there
    return None if found is None else tuple(sorted(found))


def _address_part(key: str, text: str) -> AddressPart:
    """Nova matches by regular expression; of that language, what addresses need: ^, $ and \\. are known."""
    match = _ADDRESS_PATTERN.fullmatch(text)
    if match is None or len(text) > 80:
        raise Invalid(
            f"Query parameter '{key}': part of an address, with ^ before its beginning and $ after "
            f"its end, not '{text[:80]}'."
        )
    begins, part, ends = match.groups()
    return AddressPart(
        text=part.replace("\\", "").lower(), is_beginning=bool(begins), is_end=bool(ends)
    )


def _power_state(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 2:
        raise Invalid("Query parameter 'power_state' must be a number.")
    return int(text)


def time_of(call: Call[None], key: str) -> datetime | None:
    text = call.query.get(key)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip().replace(" ", "+"))
    except ValueError as error:
        raise Invalid(f"Query parameter '{key}' is no time: '{text[:40]}'.") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _tags(call: Call[None], key: str) -> tuple[str, ...]:
    if not call.at_least(2, 26):
        return ()
    return tuple(tag for text in call.query.all(key) for tag in text.split(",") if tag)


def _sort(call: Call[None]) -> tuple[tuple[str, bool], ...]:
    keys = call.query.all("sort_key")
    directions = [d.lower() for d in call.query.all("sort_dir")]
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Invalid(
                f"Query parameter 'sort_dir' must be asc or desc, not '{direction[:20]}'."
            )
    if not keys and directions:
        keys = ["created_at"]
    last = directions[-1] if directions else "desc"
    return tuple(
        (key, (directions[i] if i < len(directions) else last) == "desc")
        for i, key in enumerate(keys)
    )


# --- metadata ----------------------------------------------------------------------------------------


def show_metadata(tx: Tx, call: Call[None]) -> Any:
    return {"metadata": service.get(tx, call.who, server_id(call)).metadata}


def add_metadata(tx: Tx, call: Call[Items]) -> Any:
    items = call.body.metadata
    return {"metadata": service.set_metadata(tx, call.who, server_id(call), items, replace=False)}


def replace_metadata(tx: Tx, call: Call[Items]) -> Any:
    items = call.body.metadata
    return {"metadata": service.set_metadata(tx, call.who, server_id(call), items, replace=True)}


def show_item(tx: Tx, call: Call[None]) -> Any:
    items = service.get(tx, call.who, server_id(call)).metadata
    key = call.path["key"]
    if key not in items:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: items[key]}}


def set_item(tx: Tx, call: Call[Item]) -> Any:
    key = call.path["key"]
    if list(call.body.meta) != [key]:
        raise Invalid(
            "Request body and URI mismatch: 'meta' must have exactly the key of the path."
        )
    service.set_metadata(tx, call.who, server_id(call), call.body.meta, replace=False)
    return {"meta": call.body.meta}


def remove_item(tx: Tx, call: Call[None]) -> None:
    service.remove_metadata(tx, call.who, server_id(call), call.path["key"])


# --- tags --------------------------------------------------------------------------------------------


def list_tags(tx: Tx, call: Call[None]) -> Any:
    return {"tags": service.get(tx, call.who, server_id(call)).tags}


def replace_tags(tx: Tx, call: Call[bodies.Tags]) -> Any:
    tags = tuple(bodies.tag_of(tag) for tag in call.body.tags)
    return {"tags": service.set_tags(tx, call.who, server_id(call), tags)}


def remove_tags(tx: Tx, call: Call[None]) -> None:
    service.set_tags(tx, call.who, server_id(call), ())


def has_tag(tx: Tx, call: Call[None]) -> None:
    server = service.get(tx, call.who, server_id(call))
    if call.path["tag"] not in server.tags:
        raise NotFound(f"Server {server.id} has no tag '{call.path['tag'][:60]}'")


def add_tag(tx: Tx, call: Call[None]) -> Reply:
    server = service.get(tx, call.who, server_id(call))
    tag = bodies.tag_of(call.path["tag"])
    if tag in server.tags:
        return Reply(status=204)
    service.set_tags(tx, call.who, server.id, (*server.tags, tag))
    location = f"{root_of(call)}/v2.1/servers/{server.id}/tags/{tag}"
    return Reply(status=201, headers={"Location": location})


def remove_tag(tx: Tx, call: Call[None]) -> None:
    has_tag(tx, call)
    server = service.get(tx, call.who, server_id(call))
    rest = tuple(tag for tag in server.tags if tag != call.path["tag"])
    service.set_tags(tx, call.who, server.id, rest)


# --- addresses ---------------------------------------------------------------------------------------


def list_addresses(tx: Tx, call: Call[None]) -> Any:
    return {"addresses": _addresses(tx, call)}


def show_addresses(tx: Tx, call: Call[None]) -> Any:
    found = _addresses(tx, call)
    name = call.path["network"]
    if name not in found:
        raise NotFound(f"Network not found: '{name[:255]}'")
    return {name: found[name]}


def _addresses(tx: Tx, call: Call[None]) -> dict[str, list[Any]]:
    server = service.get(tx, call.who, server_id(call))
    ports = network.server_ports(tx, [server.id]).get(server.id, ())
    return shapes.addresses(ports, with_macs=False)


def _route(method: str, path: str, rule: str, do: Any, **options: Any) -> Route:
    return Route(
        method=method, path=f"/v2.1/servers{path}", rule=f"os_compute_api:{rule}", do=do, **options
    )


_META = "/{server_id}/metadata"
_TAGS = "/{server_id}/tags"
_V26 = Version(2, 26)

ROUTES = (
    _route("POST", "", "servers:create", create, body=CreateServer, status=202),
    _route("GET", "", "servers:index", index, stale_ok=True),
    _route("GET", "/detail", "servers:detail", detail, stale_ok=True),
    _route("GET", "/{server_id}", "servers:show", show),
    _route("PUT", "/{server_id}", "servers:update", update, body=UpdateServer),
    _route("DELETE", "/{server_id}", "servers:delete", delete, status=204),
    _route("GET", _META, "server-metadata:index", show_metadata),
    _route("POST", _META, "server-metadata:create", add_metadata, body=Items),
    _route("PUT", _META, "server-metadata:update_all", replace_metadata, body=Items),
    _route("GET", _META + "/{key}", "server-metadata:show", show_item),
    _route("PUT", _META + "/{key}", "server-metadata:update", set_item, body=Item),
    _route("DELETE", _META + "/{key}", "server-metadata:delete", remove_item, status=204),
    _route("GET", _TAGS, "os-server-tags:index", list_tags, since=_V26),
    _route("PUT", _TAGS, "os-server-tags:update_all", replace_tags, body=bodies.Tags, since=_V26),
    _route("DELETE", _TAGS, "os-server-tags:delete_all", remove_tags, status=204, since=_V26),
    _route("GET", _TAGS + "/{tag}", "os-server-tags:show", has_tag, status=204, since=_V26),
    _route("PUT", _TAGS + "/{tag}", "os-server-tags:update", add_tag, status=201, since=_V26),
    _route("DELETE", _TAGS + "/{tag}", "os-server-tags:delete", remove_tag, status=204, since=_V26),
    _route("GET", "/{server_id}/ips", "ips:index", list_addresses),
    _route("GET", "/{server_id}/ips/{network}", "ips:show", show_addresses),
)
