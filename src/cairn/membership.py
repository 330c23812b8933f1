"""How hosts stay members and leave: what needs a look into every slice.

Joining is fleet's own (fleet/join.py). A host leaves when nothing lives on it; one that will never come
back may be written off with what it had.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cairn.compute import aggregates
from cairn.compute import store as servers
from cairn.compute import write_off as server_loss
from cairn.core.errors import Conflict, Invalid
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import hosts, join, join_store
from cairn.fleet.join import Authority
from cairn.fleet.records import NO_LOAD, Node, NodeState
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.volume import store as volumes
from cairn.volume import write_off as volume_loss
from cairn.wire.link import Renewed

POLICY: Mapping[str, str] = {"cairn:hosts:remove": "rule:admin"}
NAMED_MAX = 5  # servers named in a refusal
REMOVED_LISTED_MAX = 1000


def routes() -> tuple[Route, ...]:
    return (
        Route(
            method="DELETE", path="/cairn/v1/hosts/{host}", rule="cairn:hosts:remove",
            do=_remove_host,
        ),
        Route(
            method="GET", path="/cairn/v1/removed-hosts", rule="cairn:hosts:remove",
            do=_list_removed,
        ),
    )  # fmt: skip


def renewals(
    database: Database, authority: Authority
) -> Callable[[NodeId, bytes], Awaitable[Renewed]]:
    """What the agents' streams ask for the next certificate of a host. Raises Invalid, NotFound."""

    async def renew(node_id: NodeId, request: bytes) -> Renewed:
        key_digest = authority.key_digest(request)
        address = await database.write(lambda tx: join.renew(tx, node_id, key_digest))
        certificate = authority.issue(request, node_id, address=address)
        return Renewed(certificate=certificate, authorities=authority.pem)

    return renew


def remove(tx: Tx, node: Node, *, is_gone: bool) -> None:
    """The host is no member any more, on either side. Raises Conflict while something lives on it.

    `is_gone`: it will never come back, and what it had is lost with it."""
    if is_gone:
        _require_silent(node)
        server_loss.write_off(tx, node.id)
        volume_loss.write_off(tx, node.id)
    else:
        _require_joined(node)
        require_empty(tx, node)
        if "network" in node.roles:
            load = aggregates.loads(tx, [node]).get(node.id, NO_LOAD)
            hosts.require_other_writer(tx, node, load, f"Host {node.hostname} cannot be removed")
    network.forget_node(tx, node.id)
    placement.forget_node(tx, node.id)
    aggregates.forget_host(tx, node.id)
    join.remove(tx, node)


def _remove_host(tx: Tx, call: Call[None]) -> Any:
    unknown = sorted(set(call.query.keys()) - {"gone"})
    if unknown:
        raise Invalid(f"There is no query parameter '{unknown[0][:80]}'.")
    node = hosts.find(tx, call.path["host"])
    remove(tx, node, is_gone=call.query.boolean("gone") is True)
    return {"host": {"id": node.id, "hostname": node.hostname, "state": node.state}}


def _list_removed(tx: Tx, call: Call[None]) -> Any:
    """Those that have not yet said that they cleaned up."""
    found = join_store.all_farewells(tx, REMOVED_LISTED_MAX)
    return {
        "hosts": [
            {"id": one.node_id, "hostname": one.hostname, "removed_at": one.removed_at}
            for one in found
        ]
    }


def _require_joined(node: Node) -> None:
    if not join.has_joined(node):
        raise Conflict(
            f"Host {node.hostname} did not join by a token: it was installed with a control plane, and"
            " `cairn wipe` there takes both away."
        )


def require_empty(tx: Tx, node: Node) -> None:
    """Raises Conflict naming what lives on the host, or is on its way to it."""
    names = servers.names_by_node(tx, [node.id]).get(node.id, [])
    count = len(volumes.volumes_on(tx, node.id))
    coming = len(placement.claims_on(tx, node.id)) - len(names)
    if not names and not count and coming <= 0:
        return
    shown = ", ".join(name or server_id for server_id, name in names[:NAMED_MAX])
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    lives = [f"{_counted(len(names), 'server')} ({shown}{more})"] if names else []
    lives += [_counted(count, "volume")] if count else []
    lives += [f"{_counted(coming, 'server')} on its way there"] if coming > 0 else []
    raise Conflict(
        f"Host {node.hostname} cannot be removed while it has {' and '.join(lives)}."
        f" `cairn host drain {node.hostname}` moves them away; if the host is gone for good,"
        " remove it with --gone."
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _require_silent(node: Node) -> None:
    """Who is heard of, or may merely be cut off, is not gone."""
    if node.state in (NodeState.UP, NodeState.SUSPECT):
        raise Conflict(
            f"Host {node.hostname} is {node.state}, so it is not gone: what runs there would run on."
            " Remove it without --gone, or fence it first."
        )
