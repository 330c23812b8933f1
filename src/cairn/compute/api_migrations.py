"""Moves of servers over the API: the actions that begin and settle them, and what is told of them.

Shapes and statuses are Nova's (api-ref "Live-Migrate Server", "Migrate Server", "Server migrations",
"Migrations"). Bodies differ by microversion: `os-migrateLive` loses `disk_over_commit` in 2.25, has
`force` from 2.30 until 2.67; `migrate` may name a host since 2.56.
"""

from datetime import datetime
from typing import Any

from cairn.compute import migrations, service, shapes
from cairn.compute import store_migrations as rows
from cairn.compute.api_servers import server_id, time_of
from cairn.compute.migration_records import Cause, Migration, MigrationState, Moving, Way
from cairn.compute.plugs import note, unhindered
from cairn.compute.records import Server, ServerState, task_of
from cairn.compute.shapes import minor_of
from cairn.core.errors import Conflict, Invalid, NoCapacity, NotFound
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.http.versions import Version
from cairn.placement import service as placement

ABORTABLE_MINOR = 65  # since which a queued one may be aborted, too
FLAGS = ("true", "false", "1", "0", "on", "off", "yes", "no")

M = MigrationState


# --- actions -----------------------------------------------------------------------------------------


def migrate_live(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    minor = minor_of(call)
    host = _live_wish(asked, minor)
    server = _movable(tx, call, "os-migrateLive")
    if server.state is not ServerState.ACTIVE:
        raise Conflict(
            f"Cannot 'os-migrateLive' instance {server.id} while it is in vm_state {server.state}"
        )
    target = _target(tx, server, host)
    if minor < 34:  # Later versions tell of it in the migration and in the server's actions.
        _require_room(tx, server, Way.LIVE, target)
    note(tx, call.who, server, "live-migration", "compute_live_migration")
    migrations.begin(
        tx,
        call.who,
        server,
        way=Way.LIVE,
        cause=Cause.API,
        to_node=target.id if target is not None else None,
    )
    return Reply(status=202)


def migrate(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    """Cold: the server is off while it moves, and waits to be confirmed or reverted where it came to."""
    host = None
    if asked is not None and minor_of(call) >= 56:
        if not isinstance(asked, dict) or set(asked) - {"host"}:
            raise Invalid("Invalid input for field/attribute migrate: only 'host' is known.")
        host = asked.get("host")
        if host is not None and (not isinstance(host, str) or not 1 <= len(host) <= 255):
            raise Invalid("Invalid input for field/attribute host: a host's name.")
    server = _movable(tx, call, "migrate")
    target = _target(tx, server, host)
    _require_room(tx, server, Way.COLD, target)
    note(tx, call.who, server, "migrate", "cold_migrate")
    migrations.begin(
        tx,
        call.who,
        server,
        way=Way.COLD,
        cause=Cause.API,
        to_node=target.id if target is not None else None,
        asks_confirmation=True,
    )
    return Reply(status=202)


def confirm(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    server = service.get(tx, call.who, server_id(call))
    migrations.confirm(tx, server)
    note(tx, call.who, server, "confirmResize", "compute_confirm_resize", is_done=True)
    return Reply(status=204)


def revert(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    server = service.get(tx, call.who, server_id(call))
    note(tx, call.who, server, "revertResize", "compute_revert_resize")
    migrations.revert(tx, call.who, server)
    return Reply(status=202)


def _live_wish(asked: Any, minor: int) -> str | None:
    """The host that was asked for. Raises Invalid naming the field."""
    names = ["host", "block_migration"]
    if minor < 25:
        names.append("disk_over_commit")
    known = {*names, "force"} if 30 <= minor < 68 else set(names)
    if not isinstance(asked, dict):
        raise Invalid("Invalid input for field/attribute os-migrateLive: it must be an object.")
    for name in asked:
        if name not in known:
            raise Invalid(
                f"Invalid input for field/attribute os-migrateLive: '{str(name)[:60]}' is not among "
                f"{', '.join(sorted(known))} in this microversion."
            )
    for name in names:
        if name not in asked:
            raise Invalid(
                f"Invalid input for field/attribute os-migrateLive: '{name}' is a required property"
            )
    for name in known - {"host"}:
        value = asked.get(name, False)
        is_auto = name == "block_migration" and minor >= 25 and value == "auto"
        if not is_auto and str(value).lower() not in FLAGS:
            raise Invalid(f"Invalid input for field/attribute {name}: it must be true or false.")
    host = asked["host"]
    if host is not None and (not isinstance(host, str) or not 1 <= len(host) <= 255):
        raise Invalid("Invalid input for field/attribute host: a host's name, or null.")
    if str(asked.get("force", False)).lower() in ("true", "1", "on", "yes") and host is None:
        raise Invalid("Can't force to a non-provided destination")
    return host


def _movable(tx: Tx, call: Call[Any], action: str) -> Server:
    server = unhindered(tx, call.who, server_id(call), action)
    if server.node_id is None:
        raise Conflict(f"Instance {server.id} is not on any host.")
    return server


def _target(tx: Tx, server: Server, host: str | None) -> Node | None:
    """Raises Invalid: there is no such host, or it is there already."""
    if host is None:
        return None
    node = next((n for n in fleet.nodes(tx) if host in (n.hostname, n.id)), None)
    if node is None:
        raise Invalid(f"Compute host {host[:255]} could not be found.")
    if node.id == server.node_id:
        raise Invalid(f"Instance {server.id} is on host {node.hostname} already.")
    return node


def _require_room(tx: Tx, server: Server, way: Way, target: Node | None) -> None:
    """Invalid, as Nova has it, when no host would take it now."""
    assert server.node_id is not None
    nodes = fleet.nodes(tx)
    source = fleet.node(tx, server.node_id)
    has = migrations.belongings(tx, source, [server])[server.id]
    wanted = [target] if target is not None else nodes
    try:
        migrations.find_hosts(server, has, way, source, wanted, placement.rooms(tx, nodes))
    except NoCapacity as error:
        raise Invalid(error.message) from error


# --- a server's migrations ---------------------------------------------------------------------------


def list_of_server(tx: Tx, call: Call[None]) -> Any:
    """Live ones under way, as Nova has it; the others are in the list of all."""
    server = service.get(tx, call.who, server_id(call))
    names = _names(tx)
    found = [m for m in rows.of_server(tx, server.id) if _is_live_in_progress(m)]
    return {"migrations": [_progress(m, names, minor_of(call)) for m in found]}


def show_of_server(tx: Tx, call: Call[None]) -> Any:
    server = service.get(tx, call.who, server_id(call))
    move = _numbered(tx, call, server)
    if not _is_live_in_progress(move):
        raise NotFound(f"Live migration {move.number} for server {server.id} is not in progress.")
    return {"migration": _progress(move, _names(tx), minor_of(call))}


def abort(tx: Tx, call: Call[None]) -> Reply:
    server = service.get(tx, call.who, server_id(call))
    move = _numbered(tx, call, server)
    if server.moving != Moving.LIVE:
        raise Conflict(
            f"Cannot 'abort live migration' instance {server.id} while it is in task_state "
            f"{task_of(server)}"
        )
    if not _is_live_in_progress(move) or move.state is M.STOPPING:
        raise Invalid(
            f"Migration {move.number} state of instance {server.id} is {_status(move)}. Cannot "
            "force_complete while the migration is in this state."
        )
    if move.state is M.QUEUED and minor_of(call) < ABORTABLE_MINOR:
        raise Conflict(
            f"Aborting live migration {move.number} with status queued is not supported in this "
            "microversion."
        )
    migrations.cancel(tx, move, "The migration was aborted.")
    return Reply(status=202)


def act_on(tx: Tx, call: Call[Any]) -> Reply:
    server = service.get(tx, call.who, server_id(call))
    move = _numbered(tx, call, server)
    if call.body != {"force_complete": None}:
        raise Invalid("The body must be an object with one key, force_complete.")
    if not _is_live_in_progress(move) or move.state is M.QUEUED:
        raise Invalid(
            f"Migration {move.number} state of instance {server.id} is {_status(move)}. Cannot "
            "force_complete while the migration is in this state."
        )
    raise Conflict(
        f"Migration {move.number} cannot be forced: the guest is slowed down by itself until what it "
        "writes can be copied, so it comes to an end. Abort it, or stop the server."
    )


def _numbered(tx: Tx, call: Call[Any], server: Server) -> Migration:
    text = call.path["migration_id"]
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise NotFound(f"Migration {text[:64]} is not found for server {server.id}.")
    return rows.numbered(tx, server.id, int(text))


# --- all migrations ----------------------------------------------------------------------------------

_BY_STATUS: dict[str, dict[str, Any]] = {
    "queued": {"state": M.QUEUED},
    "preparing": {"state": M.PREPARING, "way": Way.LIVE},
    "pre-migrating": {"state": M.PREPARING, "way": Way.COLD},
    "running": {"state": (M.COPYING, M.STOPPING), "way": Way.LIVE},
    "migrating": {"state": (M.COPYING, M.STOPPING), "way": Way.COLD},
    "completed": {"state": M.DONE, "way": Way.LIVE},
    "finished": {"state": M.DONE, "confirmation": "waiting"},
    "confirmed": {"state": M.DONE, "confirmation": "confirmed"},
    "reverted": {"state": M.DONE, "confirmation": "reverted"},
    "error": {"state": M.FAILED},
    "failed": {"state": M.FAILED},
    "cancelled": {"state": M.CANCELLED},
}
_TYPES = {"live-migration": (Way.LIVE, Way.ANY), "migration": (Way.COLD,)}
_FILTERS = {"hidden", "host", "instance_uuid", "source_compute", "status", "migration_type"}


def list_all(tx: Tx, call: Call[None]) -> Any:
    minor, query = minor_of(call), call.query
    names = _names(tx)
    ids = {name: node_id for node_id, (name, _) in names.items()}
    where: dict[str, Any] = {}
    nodes: list[NodeId] | None = None
    since = before = None
    if minor >= 59:
        _require_known(call, minor)
        since = time_of(call, "changes-since")
    if minor >= 66:
        before = time_of(call, "changes-before")
        if since is not None and before is not None and before < since:
            raise Invalid(
                "The value of changes-since must be less than or equal to changes-before."
            )
    if (host := query.get("host")) is not None:
        nodes = [ids.get(host, NodeId(host[:64]))]
    if (source := query.get("source_compute")) is not None:
        where["from_node"] = ids.get(source, source[:64])
    if (status := query.get("status")) is not None:
        where |= _BY_STATUS.get(status, {"state": "unknown"})
    if (kind := query.get("migration_type")) is not None:
        where.setdefault("way", _TYPES.get(kind, ("unknown",)))
    if (of_server := query.get("instance_uuid")) is not None:
        where["server_id"] = of_server[:64]
    if minor >= 80:
        where |= {n: (query.get(n) or "")[:64] for n in ("user_id", "project_id") if n in query}
    page = pages.page_of(call) if minor >= 59 else pages.Page(limit=pages.LIMIT_MAX)
    after = _marker(tx, page.marker)
    found = rows.listed(
        tx,
        where=where,
        nodes=nodes,
        changed_since=since,
        changed_before=before,
        after=after,
        limit=page.limit + 1,
    )
    shown = found[: page.limit]
    body: dict[str, Any] = {"migrations": [_listed(call, m, names, minor) for m in shown]}
    if minor >= 59 and shown and len(found) > page.limit:
        href = pages.next_link(call, marker=shown[-1].id)
        body["migrations_links"] = [{"rel": "next", "href": href}]
    return body


def _marker(tx: Tx, marker: str | None) -> Migration | None:
    if marker is None:
        return None
    found = rows.find(tx, marker[:64])
    if found is None:
        raise Invalid(f"Marker {marker[:64]} could not be found.")
    return found


def _require_known(call: Call[None], minor: int) -> None:
    known = _FILTERS | {"limit", "marker", "changes-since"}
    known |= {"changes-before"} if minor >= 66 else set()
    known |= {"user_id", "project_id"} if minor >= 80 else set()
    for name, _ in call.query.pairs:
        if name not in known:
            raise Invalid(
                f"Additional query parameter '{name[:60]}' is not among {', '.join(sorted(known))}."
            )


# --- how they look -----------------------------------------------------------------------------------

Names = dict[NodeId, tuple[str, str]]
"""Name and address of each host."""


def _names(tx: Tx) -> Names:
    return {n.id: (n.hostname, n.facts.address if n.facts else "") for n in fleet.nodes(tx)}


def _is_live(move: Migration) -> bool:
    return move.way is not Way.COLD


def _is_live_in_progress(move: Migration) -> bool:
    return _is_live(move) and move.is_open


def _status(move: Migration) -> str:
    """In Nova's words."""
    match move.state:
        case M.QUEUED:
            return "queued"
        case M.PREPARING:
            return "preparing" if _is_live(move) else "pre-migrating"
        case M.COPYING | M.STOPPING:
            return "running" if _is_live(move) else "migrating"
        case M.DONE if _is_live(move):
            return "completed"
        case M.DONE:
            return (
                "finished" if move.confirmation == "waiting" else move.confirmation or "confirmed"
            )
        case M.FAILED:
            return "error"
        case _:
            return "cancelled"


def _ends(move: Migration, names: Names) -> dict[str, Any]:
    target = names.get(move.to_node, ("", "")) if move.to_node is not None else (None, None)
    source = names.get(move.from_node, ("", ""))
    return {
        "dest_compute": target[0],
        "dest_host": target[1],
        "dest_node": target[0],
        "source_compute": source[0],
        "source_node": source[0],
    }


def _progress(move: Migration, names: Names, minor: int) -> dict[str, Any]:
    """Bytes are those of memory and disks together, counted as memory: the hosts tell one sum."""
    body = _ends(move, names) | {
        "id": move.number,
        "server_uuid": move.server_id,
        "status": _status(move),
        "created_at": _precise(move.created_at),
        "updated_at": _precise(move.updated_at),
        "memory_total_bytes": move.total_bytes,
        "memory_processed_bytes": move.total_bytes - move.left_bytes,
        "memory_remaining_bytes": move.left_bytes,
        "disk_total_bytes": 0,
        "disk_processed_bytes": 0,
        "disk_remaining_bytes": 0,
    }
    return body | _identities(move, minor)


def _listed(call: Call[None], move: Migration, names: Names, minor: int) -> dict[str, Any]:
    body = _ends(move, names) | {
        "id": move.number,
        "instance_uuid": move.server_id,
        "status": _status(move),
        "created_at": _precise(move.created_at),
        "updated_at": _precise(move.updated_at),
        # Numbers of flavors in Nova's own database; a move changes none, and ours have none.
        "old_instance_type_id": 0,
        "new_instance_type_id": 0,
    }
    if minor >= 23:
        body["migration_type"] = "live-migration" if _is_live(move) else "migration"
        if _is_live_in_progress(move):
            collection = f"servers/{move.server_id}/migrations"
            body["links"] = shapes.links(f"{call.base_url}/compute", collection, str(move.number))
    return body | _identities(move, minor)


def _identities(move: Migration, minor: int) -> dict[str, Any]:
    body = {"uuid": move.id} if minor >= 59 else {}
    return body | ({"user_id": move.user_id, "project_id": move.project_id} if minor >= 80 else {})


def _precise(at: datetime) -> str:
    return at.isoformat()[:19] + ".000000"


_OF_SERVER = "/v2.1/servers/{server_id}/migrations"
ROUTES = (
    Route(
        method="GET",
        path="/v2.1/os-migrations",
        rule="os_compute_api:os-migrations:index",
        do=list_all,
    ),
    Route(
        method="GET",
        path=_OF_SERVER,
        rule="os_compute_api:servers:migrations:index",
        do=list_of_server,
        since=Version(2, 23),
    ),
    Route(
        method="GET",
        path=_OF_SERVER + "/{migration_id}",
        rule="os_compute_api:servers:migrations:show",
        do=show_of_server,
        since=Version(2, 23),
    ),
    Route(
        method="DELETE",
        path=_OF_SERVER + "/{migration_id}",
        rule="os_compute_api:servers:migrations:delete",
        do=abort,
        since=Version(2, 24),
        status=202,
    ),
    Route(
        method="POST",
        path=_OF_SERVER + "/{migration_id}/action",
        rule="os_compute_api:servers:migrations:force_complete",
        do=act_on,
        body=object,
        since=Version(2, 22),
        status=202,
    ),
)
