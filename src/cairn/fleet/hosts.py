"""Hosts as an operator handles them: found by name or id, and arranged: zone, rack, roles, labels, power."""

import re

import msgspec
from msgspec import UNSET, Struct, UnsetType

from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import service, store
from cairn.fleet.records import NO_LOAD, ROLES, HostLoad, Node, PowerAddress

LABELS_MAX = 64
NAMED_MAX = 5  # hosts named in a refusal
_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")


class Wish(Struct, frozen=True, kw_only=True):
    """What an operator wants changed; UNSET stays."""

    zone: str | UnsetType = UNSET
    rack: str | UnsetType = UNSET
    roles: tuple[str, ...] | UnsetType = UNSET
    labels: dict[str, str | None] | UnsetType = UNSET  # merged; None takes one away
    power: PowerAddress | UnsetType | None = UNSET


def find(tx: Tx, word: str) -> Node:
    """A host by its id or name. Raises NotFound, Conflict when several bear the name."""
    try:
        return store.node(tx, NodeId(word))
    except NotFound:
        found = store.nodes_named(tx, word, NAMED_MAX)
    if not found:
        raise NotFound(f"No host has the name or id '{word[:255]}'.")
    if len(found) > 1:
        ids = ", ".join(node.id for node in found)
        raise Conflict(f"Several hosts bear the name '{word[:255]}': say which by id: {ids}.")
    return found[0]


def names(tx: Tx) -> dict[NodeId, str]:
    """Of all hosts: whole records of ten thousand would be dear."""
    return store.hostnames(tx)


def arrange(tx: Tx, node: Node, wish: Wish, load: HostLoad = NO_LOAD) -> Node:
    """Change what an operator may choose. Raises Invalid, and Conflict when guests stand against it."""
    after = _after(node, wish)
    if after.zone != node.zone:
        _require_movable(tx, node, after.zone, load)
    if lost := set(node.roles) - set(after.roles):
        _require_dispensable(tx, node, lost, load)
    if after == node:
        return node
    store.arrange(tx, after)
    if after.zone != node.zone or after.roles != node.roles:
        _tell(tx, node, after)
    elif after.power != node.power:
        tx.wake("fleet.loss")
    return after


def _after(node: Node, wish: Wish) -> Node:
    changes: dict[str, object] = {}
    if wish.zone is not UNSET:
        changes["zone"] = require_word(wish.zone, "zone")
    if wish.roles is not UNSET:
        changes["roles"] = require_roles(wish.roles)
    by_hand = set(node.set_by_hand) | {k for k, v in changes.items() if v != getattr(node, k)}
    changes["set_by_hand"] = tuple(sorted(by_hand))
    if wish.rack is not UNSET:
        changes["rack"] = require_word(wish.rack, "rack") if wish.rack else ""
    if wish.labels is not UNSET:
        changes["labels"] = merged_labels(node.labels, wish.labels)
    if wish.power is not UNSET:
        changes["power"] = _power(wish.power, node.power)
    return msgspec.structs.replace(node, **changes)


def require_word(text: str, field: str) -> str:
    if _WORD.fullmatch(text) is None:
        raise Invalid(
            f"{field}: '{text[:80]}' must be 1 to 63 letters, digits, '.', '_', '/' or '-', and begin "
            "and end with a letter or digit."
        )
    return text


def require_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise Invalid(f"roles: '{unknown[0][:80]}' is none of {', '.join(ROLES)}.")
    if not roles:
        raise Invalid("roles: a host needs one; `cairn host remove` takes it out of the cloud.")
    return tuple(role for role in ROLES if role in roles)


def merged_labels(present: dict[str, str], wished: dict[str, str | None]) -> dict[str, str]:
    labels = dict(present)
    for key, value in wished.items():
        require_word(key, "labels")
        if value is None:
            labels.pop(key, None)
        elif len(value) > 255 or not value.isprintable():
            raise Invalid(f"labels: the value of '{key}' must be at most 255 printable characters.")
        else:
            labels[key] = value
    if len(labels) > LABELS_MAX:
        raise Invalid(f"labels: a host has at most {LABELS_MAX}, these would be {len(labels)}.")
    return dict(sorted(labels.items()))


def _power(wished: PowerAddress | None, present: PowerAddress | None) -> PowerAddress | None:
    """The password stays when the same address is given without one: it cannot be read back."""
    if wished is None:
        return None
    for name in ("driver", "address", "user", "password"):
        text = getattr(wished, name)
        if len(text) > 255 or not text.isprintable():
            raise Invalid(f"power.{name}: at most 255 printable characters.")
    if not wished.driver or not wished.address:
        raise Invalid("power: both `driver` and `address` are needed.")
    if present is not None and not wished.password:
        same = (present.driver, present.address, present.user)
        if same == (wished.driver, wished.address, wished.user):
            return present
    return wished


def _require_movable(tx: Tx, node: Node, zone: str, load: HostLoad) -> None:
    name = f"host {node.hostname} cannot move from zone {node.zone} to {zone}"
    held = _held(load)
    if held:
        raise Conflict(
            f"zone: {name} while it holds {held}: their networks live in zone {node.zone}. "
            f"Empty it first: `cairn host drain {node.hostname}`."
        )
    if load.zone_held_by:
        raise Conflict(
            f"zone: {name}: aggregate {load.zone_held_by} says which zone it is in. Take it out of "
            "the aggregate first."
        )
    if "network" in node.roles:
        require_other_writer(tx, node, load, f"zone: {name}")


def _require_dispensable(tx: Tx, node: Node, lost: set[str], load: HostLoad) -> None:
    name = f"roles: host {node.hostname} must keep"
    if "storage" in lost and load.volumes:
        raise Conflict(f"{name} the role storage while it holds {_held(load)}.")
    if "network" in lost:
        require_other_writer(tx, node, load, f"{name} the role network")


def require_other_writer(tx: Tx, node: Node, load: HostLoad, refused: str) -> None:
    """A zone that has anything in it needs a host that writes its network."""
    if set(store.network_nodes(tx, node.zone)) - {node.id}:
        return
    others = len(store.nodes_in_zone(tx, node.zone)) - 1
    if others or load.zone_networks or load.servers:
        raise Conflict(
            f"{refused}: it is the only one that writes the network of zone {node.zone}, which has "
            f"{_count(others, 'other host')} and {_count(load.zone_networks, 'network')}. Give "
            "another host of the zone the role network first."
        )


def _held(load: HostLoad) -> str:
    parts = [
        _count(count, thing)
        for count, thing in ((load.servers, "server"), (load.volumes, "volume"))
        if count
    ]
    return " and ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _tell(tx: Tx, before: Node, after: Node) -> None:
    """Who writes a zone's network concerns every host of it; a moved host both zones."""
    concerned = {after.id}
    if "network" in {*before.roles, *after.roles}:
        for zone in {before.zone, after.zone}:
            concerned.update(store.nodes_in_zone(tx, zone))
    else:
        for zone in {before.zone, after.zone}:
            concerned.update(store.network_nodes(tx, zone))
    for node_id in sorted(concerned):
        service.touch(tx, node_id)
    service.wake_placers(tx)
