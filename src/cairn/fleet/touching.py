"""How a host's stream hears that the host's work changed."""

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import store


def topic(node_id: NodeId) -> str:
    """The wake-up topic of one host's stream."""
    return f"node:{node_id}"


def touch(tx: Tx, node_id: NodeId) -> int:
    """The host's wishes changed in this transaction: raise their number and return it."""
    number = store.raise_spec_number(tx, node_id)
    tx.wake(topic(node_id))
    return number
