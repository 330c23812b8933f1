"""Which host a server goes to: pure, from records of hosts and their room.

Filters first, each with words for what it refused; then the emptiest host wins, the lowest id among
equals, so that the same question has the same answer everywhere.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from cairn.core.errors import NoCapacity
from cairn.core.ids import NodeId
from cairn.fleet.records import Node
from cairn.placement import fit
from cairn.placement.records import Amounts, Room

HOSTS_NAMED_MAX = 5  # in a refusal: more would not help its reader


class Need(Struct, frozen=True, kw_only=True):
    """What one server asks of its host."""

    amounts: Amounts
    zone: str | None = None
    node_ids: frozenset[NodeId] | None = None  # where its volumes live already; None: anywhere
    physical_networks: frozenset[str] = frozenset()
    needs_shared_pool: bool = False  # its disks lie there already


def choose(need: Need, nodes: Iterable[Node], rooms: Mapping[NodeId, Room]) -> list[Node]:
    """Hosts that fit, the best first. Raises NoCapacity that says what each host lacked."""
    found: list[Node] = []
    refused: list[str] = []
    for node in nodes:
        reason = refusal(need, node, rooms.get(node.id))
        if reason is None:
            found.append(node)
        else:
            refused.append(f"host {node.hostname} {reason}")
    if not found:
        raise NoCapacity("No valid host was found. " + _in_words(refused))
    return sorted(found, key=lambda node: (-fit.emptiness(rooms[node.id]), node.id))


def refusal(need: Need, node: Node, room: Room | None) -> str | None:
    """Why a host will not do, or None."""
    if "compute" not in node.roles:
        return "runs no servers"
    if not node.enabled:
        return f"is disabled ({node.disabled_reason or 'no reason given'})"
    if node.is_draining:
        return "is being drained"
    if not node.is_usable or node.facts is None or room is None:
        return f"is {node.state}"
    if need.zone is not None and node.zone != need.zone:
        return f"is in availability zone {node.zone}, not {need.zone}"
    if need.node_ids is not None and node.id not in need.node_ids:
        return "does not hold the server's volumes"
    if need.needs_shared_pool and not node.facts.has_shared_pool:
        return "does not reach the shared pool that the server's disks lie in"
    missing = need.physical_networks - set(node.facts.physical_networks)
    if missing:
        return f"is not connected to {', '.join(sorted(missing))}"
    return fit.lacks(room, need.amounts)


def _in_words(refused: list[str]) -> str:
    if not refused:
        return "There are no hosts."
    more = len(refused) - HOSTS_NAMED_MAX
    text = "; ".join(refused[:HOSTS_NAMED_MAX])
    return text + (f"; and {more} more." if more > 0 else ".")
