"""Tags: short words that users hang on their resources to find them again."""

from collections.abc import Iterable

from cairn.core.caller import Caller
from cairn.core.errors import Invalid, NotFound
from cairn.db.engine import Tx
from cairn.network.records import FloatingIp, Group, Network, Port, Router, Subnet, SubnetPool
from cairn.network.service.access import require_owner
from cairn.network.store import resources, tables

Tagged = Network | Subnet | SubnetPool | Port | Router | FloatingIp | Group

TAG_LENGTH_MAX = 255
TAGS_MAX = 50  # on one resource

_TABLES = {
    Network: tables.networks,
    Subnet: tables.subnets,
    SubnetPool: tables.subnet_pools,
    Port: tables.ports,
    Router: tables.routers,
    FloatingIp: tables.floating_ips,
    Group: tables.groups,
}


def require(thing: Tagged, tag: str) -> None:
    """Raises NotFound unless the resource has the tag."""
    if tag not in thing.tags:
        raise NotFound(f"TagNotFound: Tag {tag[:TAG_LENGTH_MAX]} could not be found.")


def replace(tx: Tx, who: Caller, thing: Tagged, wanted: Iterable[str]) -> tuple[str, ...]:
    """Exactly these; returns them in order. Raises Invalid, Denied."""
    require_owner(who, thing, "resource")
    labels = tuple(sorted(set(wanted)))
    if len(labels) > TAGS_MAX:
        raise Invalid(f"InvalidInput: A resource has at most {TAGS_MAX} tags.")
    for tag in labels:
        if not 1 <= len(tag) <= TAG_LENGTH_MAX or "," in tag:
            raise Invalid(
                f"InvalidInput: Invalid input for tags. Reason: '{tag[:TAG_LENGTH_MAX]}' has not 1 to "
                f"{TAG_LENGTH_MAX} characters, or has a comma."
            )
    resources.set_tags(tx, thing.id, labels)
    resources.change(tx, _TABLES[type(thing)], thing.id, {})
    return labels


def add(tx: Tx, who: Caller, thing: Tagged, tag: str) -> None:
    replace(tx, who, thing, (*thing.tags, tag))


def remove(tx: Tx, who: Caller, thing: Tagged, tag: str) -> None:
    """Raises NotFound unless the resource has the tag."""
    require(thing, tag)
    replace(tx, who, thing, (t for t in thing.tags if t != tag))
