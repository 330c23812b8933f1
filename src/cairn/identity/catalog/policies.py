"""Policies kept for other services (an old part of Keystone), and which one an endpoint is under.

Source of the order in which places are asked: api-ref, Identity v3 extensions, OS-ENDPOINT-POLICY.
"""

from typing import Any

import msgspec

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.identity.catalog import policy_store, regions
from cairn.identity.catalog.policy_store import POLICIES, Place, StoredPolicy
from cairn.identity.catalog.records import Catalog, CatalogEndpoint


def policy(tx: Tx, policy_id: str) -> StoredPolicy:
    found = POLICIES.get(tx, policy_id)
    if found is None:
        raise NotFound(f"Could not find policy: {policy_id[:64]}.")
    return found


def update_policy(tx: Tx, policy_id: str, changes: dict[str, Any]) -> StoredPolicy:
    return POLICIES.save(tx, msgspec.structs.replace(policy(tx, policy_id), **changes))


def delete_policy(tx: Tx, policy_id: str) -> None:
    old = policy(tx, policy_id)
    policy_store.forget_policy(tx, old.id)
    POLICIES.remove(tx, old.id)


def require_at(tx: Tx, place: Place, policy_id: str) -> None:
    """NotFound unless this policy is for just this place."""
    if policy_store.policy_at(tx, place) != policy_id:
        raise NotFound("Could not find policy association.")


def policy_of_endpoint(tx: Tx, known: Catalog, endpoint: CatalogEndpoint) -> StoredPolicy:
    """Its own, else that of its service in its region or the next one above, else its service's."""
    places = [Place(endpoint_id=endpoint.id)]
    region = known.regions.get(endpoint.region_id or "")
    while region is not None:
        places.append(Place(service_id=endpoint.service_id, region_id=region.id))
        region = known.regions.get(region.parent_region_id or "")
    places.append(Place(service_id=endpoint.service_id))
    for place in places:
        found = policy_store.policy_at(tx, place)
        if found is not None:
            return policy(tx, found)
    raise NotFound(f"No policy is associated with endpoint {endpoint.id}.")


def endpoints_of_policy(tx: Tx, known: Catalog, policy_id: str) -> list[CatalogEndpoint]:
    """All that its places name, each once."""
    found: dict[str, CatalogEndpoint] = {}
    for place in policy_store.places_of(tx, policy_id):
        for endpoint in known.endpoints.values():
            if _is_at(known, endpoint, place):
                found[endpoint.id] = endpoint
    return list(found.values())


def _is_at(known: Catalog, endpoint: CatalogEndpoint, place: Place) -> bool:
    if place.endpoint_id:
        return endpoint.id == place.endpoint_id
    if endpoint.service_id != place.service_id:
        return False
    return not place.region_id or endpoint.region_id in regions.below(known, place.region_id)
