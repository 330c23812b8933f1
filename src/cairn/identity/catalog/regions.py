"""Regions: a tree of names under which endpoints stand. The region of this installation is always there."""

from typing import Any

import msgspec

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.db.engine import Tx
from cairn.identity import limit_store
from cairn.identity.catalog import catalog, policy_store
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.records import Catalog, Region
from cairn.identity.catalog.store import REGIONS


def known(tx: Tx, own: Own) -> Catalog:
    """The whole catalog, without addresses of ours: what verbs check against."""
    return catalog.whole(own, catalog_store.entries(tx), "")


def region(known: Catalog, region_id: str) -> Region:
    found = known.regions.get(region_id)
    if found is None:
        raise NotFound(f"Could not find region: {region_id[:255]}.")
    return found


def create_region(tx: Tx, own: Own, new: Region) -> Region:
    """Raises Conflict (the id is taken), NotFound (the parent)."""
    all_ = known(tx, own)
    if new.id in all_.regions:
        raise Conflict(
            f"Conflict occurred attempting to store region - Duplicate ID, {new.id[:255]}."
        )
    if new.parent_region_id is not None:
        region(all_, new.parent_region_id)
    REGIONS.remove(tx, new.id)  # Of a region that was this installation's before it was renamed.
    REGIONS.add(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def update_region(tx: Tx, own: Own, region_id: str, changes: dict[str, Any]) -> Region:
    """Raises NotFound (it, or its parent), Invalid (a circle)."""
    all_ = known(tx, own)
    old = region(all_, region_id)
    new = msgspec.structs.replace(old, **changes)
    above = new.parent_region_id
    while above is not None:
        if above == old.id:
            raise Invalid(
                f"The specified parent region {new.parent_region_id} would create a circular "
                "region hierarchy."
            )
        above = region(all_, above).parent_region_id
    if REGIONS.get(tx, old.id) is None:
        REGIONS.add(tx, new)
    else:
        REGIONS.save(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def delete_region(tx: Tx, own: Own, region_id: str) -> None:
    """With the regions below it. Raises NotFound, Denied (endpoints stand there, or it is ours)."""
    all_ = known(tx, own)
    old = region(all_, region_id)
    going = below(all_, old.id)
    if any(endpoint.region_id in going for endpoint in all_.endpoints.values()):
        raise Denied(
            f"Unable to delete region {old.id} because it or its child regions have associated "
            "endpoints."
        )
    if any(all_.regions[id_].is_own for id_ in going):
        raise Denied(f"Unable to delete region {old.id}: this installation is, or stands, in it.")
    if any(limit_store.is_any_registered(tx, region_id=id_) for id_ in going):
        raise Conflict(
            f"Unable to delete region {old.id} because there are registered limits associated "
            "with it or its child regions."
        )
    for id_ in going:
        REGIONS.remove(tx, id_)
        policy_store.forget_target(tx, region_id=id_)
    tx.wake(catalog_store.TOPIC)


def below(known: Catalog, region_id: str) -> set[str]:
    """The region and all that are under it."""
    found = {region_id}
    while more := {
        r.id for r in known.regions.values() if r.parent_region_id in found and r.id not in found
    }:
        found |= more
    return found
