"""Lost hosts in the operator's API: a person's word that one is off, or that it is them and not us."""

from collections.abc import Mapping

from msgspec import Struct

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.fleet import hosts, loss, service, store
from cairn.fleet.records import Node
from cairn.http.call import Call
from cairn.http.routes import Reply, Route

POLICY: Mapping[str, str] = {
    "cairn:hosts:fence": "rule:admin",
    "cairn:hosts:recover": "rule:admin",
    "cairn:zones:recover": "rule:admin",
}


class Fence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    by_hand: bool = False  # the caller made sure that the host is off


class Recover(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing to say but that it is wished."""


class FenceHost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fence: Fence


def fence(tx: Tx, call: Call[FenceHost]) -> Reply:
    """Do not wait until the host is lost by itself."""
    node = hosts.find(tx, call.path["host"])
    if call.body.fence.by_hand:
        loss.fence_by_hand(tx, node.id)
    else:
        loss.fence_now(tx, node.id)
    return _shown(tx, node)


def recover(tx: Tx, call: Call[Recover]) -> Reply:
    """It is this host, and not the control plane: go on with it."""
    node = hosts.find(tx, call.path["host"])
    loss.recover(tx, node.id)
    return _shown(tx, node)


def recover_zone(tx: Tx, call: Call[Recover]) -> Reply:
    """It is the zone's hosts, and not the control plane: go on with them all."""
    zone = call.path["zone"]
    if not store.nodes_in_zone(tx, zone):
        raise NotFound(f"There is no zone '{zone[:80]}' with hosts.")
    return Reply(status=202, body={"zone": zone, "released": loss.recover_zone(tx, zone)})


def _shown(tx: Tx, node: Node) -> Reply:
    now = service.node(tx, node.id)
    host = {
        "id": now.id,
        "name": now.hostname,
        "state": now.state,
        "loss": loss.explain(tx, now),
    }
    return Reply(status=202, body={"host": host})


_HOST, _ZONE = "/cairn/v1/hosts/{host}", "/cairn/v1/zones/{zone}"
ROUTES = (
    Route(method="POST", path=_HOST + "/fence", rule="cairn:hosts:fence", do=fence, body=FenceHost),
    Route(
        method="POST", path=_HOST + "/recover", rule="cairn:hosts:recover", do=recover, body=Recover
    ),
    Route(
        method="POST",
        path=_ZONE + "/recover",
        rule="cairn:zones:recover",
        do=recover_zone,
        body=Recover,
    ),
)
