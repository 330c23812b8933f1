"""One-time keys to a server's screen: made with the API's token, used by a browser that has none.

Only a key's digest is kept, so that reading the database opens no screen.
"""

import hashlib
from datetime import timedelta

from cairn.compute import store, store_actions
from cairn.compute.records import SERVER_LIFE
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Tx

KEY_LIFE = timedelta(minutes=10)
PAGE = "/console/vnc"  # below the public address: our noVNC page, which takes `?token=`


def make_key(tx: Tx, who: Caller, server_id: ServerId) -> str:
    """A key to the server's screen. Raises NotFound; Conflict: it has no screen now."""
    server = store.server(tx, who.reach, server_id)
    SERVER_LIFE.require(server.state, "open console")
    if server.node_id is None:
        raise Conflict(f"Instance {server_id} is not on a host, so it has no screen.")
    key = tx.random_bytes(24).hex()
    store_actions.add_screen_key(
        tx, _digest(key), server.id, server.node_id, expires_at=tx.now + KEY_LIFE
    )
    return key


def redeem(tx: Tx, key: str) -> tuple[NodeId, ServerId]:
    """Whose screen a key opens, once. Raises NotFound: never made, used, or too old."""
    found = store_actions.take_screen_key(tx, _digest(key))
    if found is None:
        raise NotFound("This console address was used before or is older than ten minutes.")
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
