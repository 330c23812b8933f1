"""What becomes of servers whose host will never come back: their owners hear so, and may delete them."""

from cairn.compute import migrations, store, store_actions
from cairn.compute.records import Fault
from cairn.compute.reports import release
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.placement import service as placement

MESSAGE = "The host that this server lived on was lost for good, and what it had there with it."


def write_off(tx: Tx, node_id: NodeId) -> int:
    """Every server of the host is in ERROR and nowhere; those that were to go are gone. How many."""
    migrations.write_off_host(tx, node_id)
    found = store.servers_on(tx, node_id)
    for server in found:
        if server.is_doomed:
            release(tx, server)
            continue
        store.move(tx, server, "failed", fault=Fault(message=MESSAGE, created_at=tx.now))
        store.change_server(tx, server.id, node_id=None)
        store_actions.finish_actions(tx, server.id, "Error", details=MESSAGE)
        placement.release(tx, server.id)
    return len(found)
