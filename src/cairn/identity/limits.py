"""Unified limits: what a service's resources are limited to, for everybody and for one project or domain.

Source: api-ref, Identity v3, "Unified Limits"; the enforcement model is "flat": a project's limit is its own
or the registered default, whatever is above it in the tree.

Cairn's services declare theirs in code, so they are registered from the start, cannot be taken away, and
have no region. Changing such a default changes what every project may have that has no limit of its own;
the limit of a project is the service's own quota row (quotas.py). What operators register for services of
others, and limits of domains, is kept (limit_store.py) for whoever asks.
"""

import functools
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import ProjectId
from cairn.core.limits import Limits
from cairn.db.engine import Tx
from cairn.identity import limit_store, places, quotas, store
from cairn.identity.catalog import catalog, regions
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.records import Catalog
from cairn.identity.limit_store import LIMITS, REGISTERED, RegisteredLimit, StoredLimit
from cairn.identity.quotas import EVERYBODY, Row

ROWS_MAX = 100_000
_CODE = 8  # characters of a limit's id that say which of ours it is; the rest is the project's id
_NAMESPACE = uuid.UUID("a5bd43a0-6c9f-5b93-8a40-0a2c9d6c3f70")


class Ours(Struct, frozen=True, kw_only=True):
    """What Cairn itself serves and limits."""

    own: Own
    tables: Sequence[Limits]

    def registered(self) -> Iterator[RegisteredLimit]:
        """As the slices declare them."""
        for table in self.tables:
            for limit in table.working:
                yield RegisteredLimit(
                    id=_registered_id(limit.name),
                    service_id=catalog.service_id(table.service),
                    resource_name=limit.name,
                    default_limit=limit.default,
                    description=f"in {limit.unit}" if limit.unit else None,
                )


class Wish(Struct, frozen=True, kw_only=True):
    """A limit that is to be. Of a project or of a domain."""

    service_id: str
    resource_name: str
    resource_limit: int
    region_id: str | None = None
    description: str | None = None
    project_id: str | None = None
    domain_id: str | None = None


class UnifiedLimit(Struct, frozen=True, kw_only=True):
    """A limit of a project or domain, whoever keeps it."""

    id: str
    registered: RegisteredLimit
    resource_limit: int
    description: str | None = None
    project_id: str | None = None
    domain_id: str | None = None


# --- registered limits ---------------------------------------------------------------------------------


def all_registered(tx: Tx, ours: Ours) -> dict[str, RegisteredLimit]:
    """Ours as they hold now, then those of others, by id."""
    changed = quotas.changed_defaults(tx)
    found = {}
    for declared in ours.registered():
        row = changed.get(declared.resource_name)
        found[declared.id] = declared if row is None else _overruled(declared, row)
    others = REGISTERED.page(tx, limit=ROWS_MAX)
    return found | {other.id: other for other in others}


def registered(tx: Tx, ours: Ours, id_: str) -> RegisteredLimit:
    found = all_registered(tx, ours).get(id_)
    if found is None:
        raise NotFound(f"Could not find registered limit for {id_[:64]}.")
    return found


def register(tx: Tx, ours: Ours, new: Sequence[RegisteredLimit]) -> list[RegisteredLimit]:
    """All or none. Raises Invalid (no such service or region), Conflict (it is registered already)."""
    known = regions.known(tx, ours.own)
    for one in new:
        _check_place(known, one.service_id, one.region_id, "registered_limit")
        _require_free(tx, ours, one)
        REGISTERED.add(tx, one)
    return list(new)


def update_registered(tx: Tx, ours: Ours, id_: str, changes: dict[str, Any]) -> RegisteredLimit:
    """Raises NotFound, Invalid, Conflict, Denied (limits refer to it; what follows from the code)."""
    old = registered(tx, ours, id_)
    new = msgspec.structs.replace(old, **changes)
    is_moved = _place(new) != _place(old)
    if is_ours(ours, id_):
        if is_moved:
            raise Denied(
                f"Unable to update registered limit {id_}: Cairn itself declares it, so only "
                "default_limit and description can be changed."
            )
        quotas.put(
            tx,
            Row(
                project_id=EVERYBODY,
                name=new.resource_name,
                maximum=new.default_limit,
                description=new.description,
            ),
        )
        return new
    _require_unused(tx, old)
    _check_place(regions.known(tx, ours.own), new.service_id, new.region_id, "registered_limit")
    if is_moved:
        _require_free(tx, ours, new)
    return REGISTERED.save(tx, new)


def unregister(tx: Tx, ours: Ours, id_: str) -> None:
    """Raises NotFound, Denied (limits refer to it, or Cairn declares it)."""
    old = registered(tx, ours, id_)
    if is_ours(ours, id_):
        raise Denied(
            f"Unable to delete registered limit {id_}: Cairn itself declares it. A default_limit of "
            "-1 lifts it."
        )
    _require_unused(tx, old)
    REGISTERED.remove(tx, id_)


def is_ours(ours: Ours, id_: str) -> bool:
    return any(declared.id == id_ for declared in ours.registered())


# --- limits --------------------------------------------------------------------------------------------


def all_limits(
    tx: Tx, ours: Ours, *, project_ids: Collection[str] | None = None, domain_id: str | None = None
) -> list[UnifiedLimit]:
    """Every limit; or only those of these projects and this domain."""
    by_id = all_registered(tx, ours)
    found = []
    names = {r.resource_name: r for r in by_id.values() if is_ours(ours, r.id)}
    for row in quotas.rows_of(tx, project_ids=project_ids, names=names):
        found.append(_of_row(row, names[row.name]))
    for kept in LIMITS.page(tx, _of_whom(project_ids, domain_id), limit=ROWS_MAX):
        if kept.registered_limit_id in by_id:
            found.append(_of_kept(kept, by_id[kept.registered_limit_id]))
    return found


def limit(tx: Tx, ours: Ours, id_: str) -> UnifiedLimit:
    by_id = all_registered(tx, ours)
    kept = LIMITS.get(tx, id_)
    if kept is not None and kept.registered_limit_id in by_id:
        return _of_kept(kept, by_id[kept.registered_limit_id])
    for one in by_id.values():
        if is_ours(ours, one.id) and id_.endswith(_code(one.resource_name)):
            rows = quotas.rows_of(tx, project_ids=[id_[:-_CODE]], names=[one.resource_name])
            for row in rows:
                return _of_row(row, one)
    raise NotFound(f"Could not find limit for {id_[:64]}.")


def create_limits(tx: Tx, ours: Ours, wishes: Sequence[Wish]) -> list[UnifiedLimit]:
    """All or none. Raises Invalid (what it is of is not there), Denied (nothing is registered), Conflict."""
    known = regions.known(tx, ours.own)
    by_id = all_registered(tx, ours)
    return [_create(tx, ours, known, by_id, wish) for wish in wishes]


def update_limit(tx: Tx, ours: Ours, id_: str, changes: dict[str, Any]) -> UnifiedLimit:
    new = msgspec.structs.replace(limit(tx, ours, id_), **changes)
    if _is_row(ours, new):
        quotas.put(tx, _row(new))
    else:
        LIMITS.save(tx, _kept(new))
    return new


def delete_limit(tx: Tx, ours: Ours, id_: str) -> None:
    old = limit(tx, ours, id_)
    if _is_row(ours, old):
        quotas.reset_limits(tx, _row(old).project_id, (old.registered.resource_name,))
    else:
        LIMITS.remove(tx, id_)


def _create(
    tx: Tx, ours: Ours, known: Catalog, by_id: dict[str, RegisteredLimit], wish: Wish
) -> UnifiedLimit:
    _check_place(known, wish.service_id, wish.region_id, "limit")
    wish = _with_owner(tx, wish)
    place = (wish.service_id, wish.region_id, wish.resource_name)
    found = next((one for one in by_id.values() if _place(one) == place), None)
    if found is None:
        raise Denied("Unable to create a limit that has no corresponding registered limit.")
    new = UnifiedLimit(
        id=tx.new_hex_id(),
        registered=found,
        resource_limit=wish.resource_limit,
        description=wish.description,
        project_id=wish.project_id,
        domain_id=wish.domain_id,
    )
    if _is_row(ours, new):
        new = msgspec.structs.replace(new, id=_limit_id(new.project_id or "", found.resource_name))
        is_there = bool(
            quotas.rows_of(tx, project_ids=[new.project_id or ""], names=[found.resource_name])
        )
    else:
        is_there = bool(
            limit_store.limit_for(tx, found.id, project_id=new.project_id, domain_id=new.domain_id)
        )
    if is_there:
        raise Conflict("Conflict occurred attempting to store limit - Duplicate entry.")
    if _is_row(ours, new):
        quotas.put(tx, _row(new))
    else:
        LIMITS.add(tx, _kept(new))
    return new


def _with_owner(tx: Tx, wish: Wish) -> Wish:
    """A project that acts as a domain has the domain's limit. Raises Invalid."""
    if (wish.project_id is None) == (wish.domain_id is None):
        raise Invalid("Invalid input for limit: give either project_id or domain_id.")
    if wish.project_id is not None:
        if places.project_exists(tx, wish.project_id):
            return wish
        if store.DOMAINS.get(tx, wish.project_id) is None:
            raise Invalid(f"Invalid input for limit: no project has the id {wish.project_id}.")
        return msgspec.structs.replace(wish, project_id=None, domain_id=wish.project_id)
    if store.DOMAINS.get(tx, wish.domain_id or "") is None:
        raise Invalid(f"Invalid input for limit: no domain has the id {wish.domain_id}.")
    return wish


# --- between the API's shape and the rows --------------------------------------------------------------


def _is_row(ours: Ours, limit: UnifiedLimit) -> bool:
    """Whether it is a quota of one of our services, and so holds in it."""
    return limit.project_id is not None and is_ours(ours, limit.registered.id)


def _row(limit: UnifiedLimit) -> Row:
    return Row(
        project_id=ProjectId(limit.project_id or ""),
        name=limit.registered.resource_name,
        maximum=limit.resource_limit,
        description=limit.description,
    )


def _kept(limit: UnifiedLimit) -> StoredLimit:
    return StoredLimit(
        id=limit.id,
        registered_limit_id=limit.registered.id,
        project_id=limit.project_id,
        domain_id=limit.domain_id,
        resource_limit=limit.resource_limit,
        description=limit.description,
    )


def _of_row(row: Row, of: RegisteredLimit) -> UnifiedLimit:
    return UnifiedLimit(
        id=_limit_id(row.project_id, row.name),
        registered=of,
        resource_limit=row.maximum,
        description=row.description,
        project_id=row.project_id,
    )


def _of_kept(kept: StoredLimit, of: RegisteredLimit) -> UnifiedLimit:
    return UnifiedLimit(
        id=kept.id,
        registered=of,
        resource_limit=kept.resource_limit,
        description=kept.description,
        project_id=kept.project_id,
        domain_id=kept.domain_id,
    )


def _of_whom(project_ids: Collection[str] | None, domain_id: str | None) -> list[Any]:
    if project_ids is None:
        return []
    columns = limit_store.limits.c
    return [columns.project_id.in_(set(project_ids)) | (columns.domain_id == (domain_id or ""))]


def _overruled(declared: RegisteredLimit, row: Row) -> RegisteredLimit:
    return msgspec.structs.replace(
        declared,
        default_limit=row.maximum,
        description=declared.description if row.description is None else row.description,
    )


def _place(one: RegisteredLimit) -> tuple[str, str | None, str]:
    return one.service_id, one.region_id, one.resource_name


def _check_place(known: Catalog, service_id: str, region_id: str | None, what: str) -> None:
    if service_id not in known.services:
        raise Invalid(f"Invalid input for {what}: no service has the service_id {service_id}.")
    if region_id is not None and region_id not in known.regions:
        raise Invalid(f"Invalid input for {what}: no region has the region_id {region_id}.")


def _require_free(tx: Tx, ours: Ours, new: RegisteredLimit) -> None:
    # Ours hold in every region: a second one for a region of its own would limit nothing.
    is_taken = any(
        (one.service_id, one.resource_name) == (new.service_id, new.resource_name)
        for one in ours.registered()
    ) or limit_store.registered(tx, new.service_id, new.region_id, new.resource_name)
    if is_taken:
        raise Conflict("Conflict occurred attempting to store registered_limit - Duplicate entry.")


def _require_unused(tx: Tx, old: RegisteredLimit) -> None:
    if limit_store.is_in_use(tx, old.id):
        raise Denied(
            f"Unable to update or delete registered limit {old.id} because there are project "
            "limits associated with it."
        )


@functools.cache
def _registered_id(name: str) -> str:
    return uuid.uuid5(_NAMESPACE, name).hex


def _code(name: str) -> str:
    return _registered_id(name)[:_CODE]


def _limit_id(project_id: str, name: str) -> str:
    return project_id + _code(name)
