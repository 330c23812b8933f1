"""Emptying hosts in the operator's API: look at the plan or the progress, begin, undo."""

from collections.abc import Mapping
from typing import Any

from cairn.compute import drain
from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.fleet import hosts
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.volume.records import Volume

POLICY: Mapping[str, str] = {
    "cairn:hosts:drain:show": "rule:admin",
    "cairn:hosts:drain:begin": "rule:admin",
    "cairn:hosts:drain:undo": "rule:admin",
}


def show(tx: Tx, call: Call[None]) -> Any:
    """Before a drain: what it would do. During one: how far it is."""
    return _shown(tx, call)


def begin(tx: Tx, call: Call[None]) -> Any:
    node = hosts.find(tx, call.path["host"])
    drain.require_drainable(node)
    drain.begin(tx, call.who, node)
    return _shown(tx, call)


def undo(tx: Tx, call: Call[None]) -> Any:
    """`running=cancel` also turns back what is being copied; else that is finished."""
    running = call.query.get("running") or "finish"
    if running not in ("finish", "cancel"):
        raise Invalid(f"running: '{running[:40]}' is neither 'finish' nor 'cancel'.")
    node = hosts.find(tx, call.path["host"])
    drain.undo(tx, node, cancel_running=running == "cancel")
    return _shown(tx, call)


def _shown(tx: Tx, call: Call[Any]) -> Any:
    found = drain.progress(tx, hosts.find(tx, call.path["host"]))
    return {
        "drain": {
            "host": found.node.hostname,
            "host_id": found.node.id,
            "is_draining": found.began_at is not None,
            "began_at": found.began_at.isoformat() if found.began_at is not None else None,
            "servers": [_guest(guest) for guest in found.guests],
            "volumes": [_volume(volume) for volume in found.volumes],
        }
    }


def _guest(guest: drain.Guest) -> dict[str, Any]:
    return {
        "id": guest.id,
        "name": guest.name,
        "state": guest.state,
        "way": guest.way,
        "target": guest.target,
        "reason": guest.reason,
        "memory_mib": guest.memory_mib,
        "disk_gib": guest.disk_gib,
        "total_bytes": guest.total_bytes,
        "left_bytes": guest.left_bytes,
        "pause_ms": guest.pause_ms,
        "tries": guest.tries,
    }


def _volume(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size_gib": volume.size_gib,
        "reason": "no server has it, and only servers take volumes to another host's pool: attach it "
        "to one, or copy it",
    }


_PATH = "/cairn/v1/hosts/{host}/drain"
ROUTES = (
    Route(method="GET", path=_PATH, rule="cairn:hosts:drain:show", do=show),
    Route(method="POST", path=_PATH, rule="cairn:hosts:drain:begin", do=begin, status=202),
    Route(method="DELETE", path=_PATH, rule="cairn:hosts:drain:undo", do=undo, status=200),
)
