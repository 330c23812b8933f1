"""Services and their endpoints, as operators add and change them; ours too, as far as that can be."""

from typing import Any

import msgspec

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.db.engine import Tx
from cairn.identity import limit_store
from cairn.identity.catalog import policy_store, regions
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.catalog import Own, wrong_place
from cairn.identity.catalog.records import Catalog, CatalogEndpoint, CatalogService, Region
from cairn.identity.catalog.regions import known
from cairn.identity.catalog.store import ENDPOINTS, SERVICES


def service(known: Catalog, service_id: str) -> CatalogService:
    found = known.services.get(service_id)
    if found is None:
        raise NotFound(f"Could not find service: {service_id[:64]}.")
    return found


def endpoint(known: Catalog, endpoint_id: str) -> CatalogEndpoint:
    found = known.endpoints.get(endpoint_id)
    if found is None:
        raise NotFound(f"Could not find endpoint: {endpoint_id[:64]}.")
    return found


def create_service(tx: Tx, new: CatalogService) -> CatalogService:
    SERVICES.add(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def update_service(tx: Tx, own: Own, service_id: str, changes: dict[str, Any]) -> CatalogService:
    """Raises NotFound, Denied (the type of one of ours)."""
    old = service(known(tx, own), service_id)
    new = msgspec.structs.replace(old, **changes)
    if old.is_own and new.type != old.type:
        raise Denied(f"The type of service {old.id} cannot be changed: Cairn itself serves it.")
    if SERVICES.get(tx, old.id) is None:
        SERVICES.add(tx, new)
    else:
        SERVICES.save(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def delete_service(tx: Tx, own: Own, service_id: str) -> None:
    """With its endpoints. Raises NotFound, Denied (it is ours), Conflict (limits are registered for it)."""
    all_ = known(tx, own)
    old = service(all_, service_id)
    if old.is_own:
        raise Denied(
            f"Service {old.id} cannot be deleted: Cairn itself serves it. Disable it instead "
            "('enabled': false), and no catalog shows it."
        )
    if limit_store.is_any_registered(tx, service_id=old.id):
        raise Conflict(
            f"Unable to delete service {old.id} because there are registered limits associated "
            "with it."
        )
    for its_endpoint in all_.endpoints.values():
        if its_endpoint.service_id == old.id:
            _forget_endpoint(tx, its_endpoint.id)
    policy_store.forget_target(tx, service_id=old.id)
    SERVICES.remove(tx, old.id)
    tx.wake(catalog_store.TOPIC)


def create_endpoint(
    tx: Tx, own: Own, new: CatalogEndpoint, *, legacy_region: str | None
) -> CatalogEndpoint:
    """`legacy_region` is made if it is not there, when no region_id is given. Raises Invalid."""
    new = _with_region(tx, own, new, legacy_region)
    _check(known(tx, own), new)
    ENDPOINTS.add(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def update_endpoint(
    tx: Tx, own: Own, endpoint_id: str, changes: dict[str, Any], *, legacy_region: str | None
) -> CatalogEndpoint:
    """As `create_endpoint`. Raises NotFound, Denied (what follows from the code, of one of ours)."""
    all_ = known(tx, own)
    old = endpoint(all_, endpoint_id)
    row = ENDPOINTS.get(tx, old.id)
    if old.is_own:
        # The computed address is that of whoever asks, and must not become everybody's.
        old = msgspec.structs.replace(old, url=row.url if row is not None else None)
        for name in ("service_id", "interface"):
            if changes.get(name, getattr(old, name)) != getattr(old, name):
                raise Denied(
                    f"The {name} of endpoint {old.id} cannot be changed: Cairn itself serves it."
                )
    new = msgspec.structs.replace(old, **changes)
    if legacy_region is not None and changes.get("region_id") is None:
        new = _with_region(tx, own, msgspec.structs.replace(new, region_id=None), legacy_region)
        all_ = known(tx, own)
    _check(all_, new)
    if row is None:
        ENDPOINTS.add(tx, new)
    else:
        ENDPOINTS.save(tx, new)
    tx.wake(catalog_store.TOPIC)
    return new


def delete_endpoint(tx: Tx, own: Own, endpoint_id: str) -> None:
    """Raises NotFound, Denied (it is ours)."""
    old = endpoint(known(tx, own), endpoint_id)
    if old.is_own:
        raise Denied(
            f"Endpoint {old.id} cannot be deleted: Cairn itself serves it. Disable it instead "
            "('enabled': false), and no catalog shows it."
        )
    _forget_endpoint(tx, old.id)
    tx.wake(catalog_store.TOPIC)


def _forget_endpoint(tx: Tx, endpoint_id: str) -> None:
    catalog_store.forget_endpoint(tx, endpoint_id)
    policy_store.forget_target(tx, endpoint_id=endpoint_id)
    ENDPOINTS.remove(tx, endpoint_id)


def _with_region(
    tx: Tx, own: Own, new: CatalogEndpoint, legacy_region: str | None
) -> CatalogEndpoint:
    if new.region_id is not None or legacy_region is None:
        return new
    if legacy_region not in known(tx, own).regions:
        regions.create_region(tx, own, Region(id=legacy_region))
    return msgspec.structs.replace(new, region_id=legacy_region)


def _check(known: Catalog, new: CatalogEndpoint) -> None:
    if new.service_id not in known.services:
        raise Invalid(
            f"Invalid input for endpoint: no service has the service_id {new.service_id}."
        )
    if new.region_id is not None and new.region_id not in known.regions:
        raise Invalid(f"Invalid input for endpoint: no region has the region_id {new.region_id}.")
    if new.url is None and not new.is_own:
        raise Invalid("Invalid input for endpoint: 'url' must not be null.")
    if new.url is not None and (wrong := wrong_place(new.url)) is not None:
        raise Invalid(
            f"Invalid input for endpoint: the url has '{wrong}', but only %(project_id)s, "
            "%(tenant_id)s and %(user_id)s are filled in; a percent sign is written as %%."
        )
