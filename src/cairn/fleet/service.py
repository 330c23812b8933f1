"""What may be done to hosts, and how the slices say that a host's work changed."""

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import store
from cairn.fleet.records import NODE_LIFE, Node, NodeState
from cairn.wire.report import NodeReport

GENERATION_SHIFT = 32  # a report's number is its generation and a count: later agents always win


def topic(node_id: NodeId) -> str:
    """The wake-up topic of one host's stream."""
    return f"node:{node_id}"


def touch(tx: Tx, node_id: NodeId) -> int:
    """The host's wishes changed in this transaction: raise their number and return it."""
    number = store.raise_spec_number(tx, node_id)
    tx.wake(topic(node_id))
    return number


def touch_zone(tx: Tx, zone: str) -> None:
    """The zone's logical network changed: touch whoever writes it. No such host yet is no error."""
    for node_id in store.network_nodes(tx, zone):
        touch(tx, node_id)


def node(tx: Tx, node_id: NodeId) -> Node:
    """Raises NotFound."""
    return store.node(tx, node_id)


def nodes(tx: Tx) -> list[Node]:
    return store.all_nodes(tx)


def enrol(tx: Tx, node_id: NodeId, *, hostname: str, zone: str, roles: tuple[str, ...]) -> None:
    """Make a host a member, or bring its name, zone and roles up to date. Repeatable."""
    if any(n.id == node_id for n in store.all_nodes(tx)):
        store.change_node(tx, node_id, hostname=hostname, zone=zone, roles=roles)
    else:
        store.add_node(tx, node_id, hostname=hostname, zone=zone, roles=roles)


def connected(tx: Tx, node_id: NodeId) -> int:
    """The host's agent has come (back). Returns the base for the numbers of its reports."""
    seen = store.node(tx, node_id)
    store.move(tx, seen, "connected")
    return store.raise_generation(tx, node_id) << GENERATION_SHIFT


def silent(tx: Tx, node_id: NodeId) -> None:
    """The host's lease ran out. Nothing is started elsewhere on this alone."""
    seen = store.node(tx, node_id)
    if NODE_LIFE.allows(seen.state, "silent"):
        store.move(tx, seen, "silent")
        tx.wake("fleet")


def take_report(tx: Tx, report: NodeReport) -> bool:
    """Write what the host said of itself; False (and nothing else may be believed) if it is old news."""
    was_known = store.node(tx, report.node_id).facts is not None
    is_news = store.record_report(tx, report)
    if is_news and not was_known:
        tx.wake("compute.placer")  # The first facts of a host are new room.
        tx.wake("volume.placer")
    return is_news


def set_enabled(tx: Tx, node_id: NodeId, *, enabled: bool, reason: str | None = None) -> None:
    """Whether new guests may be placed on the host. Raises NotFound."""
    store.node(tx, node_id)
    store.set_enabled(tx, node_id, enabled=enabled, reason=reason)


def is_up(node: Node) -> bool:
    return node.state is NodeState.UP
