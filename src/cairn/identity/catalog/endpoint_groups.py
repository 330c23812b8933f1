"""Which endpoints a project is shown: some by name, others by groups. None at all means that it sees all.

Source: api-ref, Identity v3 extensions, OS-EP-FILTER.
"""

from typing import Any

import msgspec

from cairn.core.errors import Conflict, NotFound
from cairn.db.engine import Tx
from cairn.identity import places
from cairn.identity.catalog import catalog, endpoints
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.records import CatalogEndpoint, EndpointGroup
from cairn.identity.catalog.regions import known
from cairn.identity.catalog.store import GROUPS


def group(tx: Tx, group_id: str) -> EndpointGroup:
    found = GROUPS.get(tx, group_id)
    if found is None:
        raise NotFound(f"Could not find Endpoint Group: {group_id[:64]}.")
    return found


def create_group(tx: Tx, new: EndpointGroup) -> EndpointGroup:
    return GROUPS.add(tx, new)


def update_group(tx: Tx, group_id: str, changes: dict[str, Any]) -> EndpointGroup:
    tx.wake(catalog_store.TOPIC)
    return GROUPS.save(tx, msgspec.structs.replace(group(tx, group_id), **changes))


def delete_group(tx: Tx, group_id: str) -> None:
    old = group(tx, group_id)
    catalog_store.forget_group(tx, old.id)
    GROUPS.remove(tx, old.id)


def endpoints_of_group(tx: Tx, own: Own, group_id: str, base_url: str) -> list[CatalogEndpoint]:
    all_ = catalog.whole(own, catalog_store.entries(tx), base_url)
    return catalog.in_group(all_, group(tx, group_id))


def endpoints_of_project(tx: Tx, own: Own, project_id: str, base_url: str) -> list[CatalogEndpoint]:
    """Those that it is shown by name or by a group."""
    places.project(tx, project_id)
    all_ = catalog.whole(own, catalog_store.entries(tx), base_url)
    shown = catalog_store.shown_to(tx, project_id)
    ids = catalog.shown_ids(all_, GROUPS.many(tx, shown.group_ids), shown)
    return [endpoint for endpoint in all_.endpoints.values() if endpoint.id in ids]


def groups_of_project(tx: Tx, project_id: str) -> list[EndpointGroup]:
    places.project(tx, project_id)
    found = GROUPS.many(tx, catalog_store.shown_to(tx, project_id).group_ids)
    return sorted(found.values(), key=lambda one: one.id)


def show_endpoint(tx: Tx, own: Own, project_id: str, endpoint_id: str) -> None:
    """Raises NotFound, Conflict (it is shown already)."""
    endpoints.endpoint(known(tx, own), endpoint_id)
    places.project(tx, project_id)
    if endpoint_id in catalog_store.shown_to(tx, project_id).endpoint_ids:
        raise Conflict(
            "Conflict occurred attempting to store project_endpoint - Duplicate entry found."
        )
    catalog_store.show_endpoint(tx, project_id, endpoint_id)


def require_endpoint_shown(tx: Tx, own: Own, project_id: str, endpoint_id: str) -> None:
    endpoints.endpoint(known(tx, own), endpoint_id)
    places.project(tx, project_id)
    if endpoint_id not in catalog_store.shown_to(tx, project_id).endpoint_ids:
        raise _not_shown(endpoint_id, project_id)


def hide_endpoint(tx: Tx, project_id: str, endpoint_id: str) -> None:
    if not catalog_store.hide_endpoint(tx, project_id, endpoint_id):
        raise _not_shown(endpoint_id, project_id)


def show_group(tx: Tx, project_id: str, group_id: str) -> None:
    """Raises NotFound, Conflict (it is shown already)."""
    places.project(tx, project_id)
    group(tx, group_id)
    if group_id in catalog_store.shown_to(tx, project_id).group_ids:
        raise Conflict(
            "Conflict occurred attempting to store project_endpoint_group - Duplicate entry found."
        )
    catalog_store.show_group(tx, project_id, group_id)


def require_group_shown(tx: Tx, project_id: str, group_id: str) -> None:
    places.project(tx, project_id)
    group(tx, group_id)
    if group_id not in catalog_store.shown_to(tx, project_id).group_ids:
        raise NotFound("Endpoint Group Project Association not found")


def hide_group(tx: Tx, project_id: str, group_id: str) -> None:
    require_group_shown(tx, project_id, group_id)
    catalog_store.hide_group(tx, project_id, group_id)


def _not_shown(endpoint_id: str, project_id: str) -> NotFound:
    return NotFound(f"Endpoint {endpoint_id[:64]} not found in project {project_id[:64]}")
