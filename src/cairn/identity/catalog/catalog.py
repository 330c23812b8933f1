"""The catalog: which services there are and at which address, as the client that asks can reach them.

What Cairn itself serves is computed from what is mounted and from the address that the client used, so it
is right behind a proxy, under a second name and after a move; ids are derived from what they name and stay
the same everywhere. Operators add rows for what others serve (catalog_store.py), and may overrule ours: a
row with the id of a computed entry renames it, disables it or gives it another address. What follows from
the code, such as the type of a service that is mounted here, cannot be changed, nor can it be deleted.
"""

import functools
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from cairn.http.routes import Service
from cairn.identity.catalog.records import (
    INTERFACES,
    Catalog,
    CatalogEndpoint,
    CatalogService,
    EndpointGroup,
    Region,
    Shown,
    Stored,
)

ALIASES = {"block-storage": ("volumev3", "cinderv3")}
"""Types under which older clients still look for a service, and the service's name there."""

T = TypeVar("T", Region, CatalogService, CatalogEndpoint)

_NAMESPACE = uuid.UUID("6c1dfb0e-39a4-5a55-9d4e-3c4be1a5bd0f")
_PLACE = re.compile(r"[$%]\((\w*)\)s|%%|%")


class Entry(Struct, frozen=True, kw_only=True):
    """One service that clients can find."""

    name: str  # "nova"
    kind: str  # "compute"
    path: str  # "/compute/v2.1"

    @property
    def id(self) -> str:
        return service_id(self.kind)


class Own(Struct, frozen=True, kw_only=True):
    """What is mounted here: asked anew each time, for identity is one of the services."""

    entries: Callable[[], Sequence[Entry]]
    region: str


def entries_of(services: Iterable[Service]) -> tuple[Entry, ...]:
    """The catalog's entries for mounted services, other names of their types included."""
    found = []
    for service in services:
        path = service.root + service.catalog_path
        found.append(Entry(name=service.name, kind=service.kind, path=path))
        if service.kind in ALIASES:
            kind, name = ALIASES[service.kind]
            found.append(Entry(name=name, kind=kind, path=path))
    return tuple(found)


def service_id(kind: str) -> str:
    """The id of our own service of this type."""
    return _derived(kind)


def whole(own: Own, stored: Stored, base_url: str) -> Catalog:
    """Ours, as far as no row overrules them, then what is stored."""
    entries = own.entries()
    services, endpoints = [], []
    urls: dict[str, str] = {}
    for entry in entries:
        services.append(
            CatalogService(
                id=entry.id,
                type=entry.kind,
                name=entry.name,
                extra={"description": ""},
                is_own=True,
            )
        )
        for interface in INTERFACES:
            id_ = _derived(f"{own.region}/{entry.kind}/{interface}")
            urls[id_] = base_url + entry.path
            endpoints.append(
                CatalogEndpoint(
                    id=id_,
                    service_id=entry.id,
                    interface=interface,
                    region_id=own.region,
                    url=None,
                    is_own=True,
                )
            )
    reached = {
        id_: msgspec.structs.replace(e, url=urls[id_]) if e.url is None else e
        for id_, e in _overruled(endpoints, stored.endpoints).items()
    }
    return Catalog(
        regions=_overruled([Region(id=own.region, is_own=True)], stored.regions),
        services=_overruled(services, stored.services),
        endpoints=reached,
    )


def _overruled(ours: Sequence[T], rows: Sequence[T]) -> dict[str, T]:
    found = {thing.id: thing for thing in ours}
    for row in rows:
        if row.id in found or not row.is_own:
            found[row.id] = row
    return found


# --- what a token shows --------------------------------------------------------------------------------


def shown(
    catalog: Catalog, stored: Stored, *, project_id: str | None, user_id: str | None
) -> list[dict[str, Any]]:
    """The catalog as tokens carry it. Source: api-ref, Identity v3, "Catalog"; OS-EP-FILTER."""
    known = {"user_id": user_id, "project_id": project_id, "tenant_id": project_id}
    only = shown_ids(catalog, stored.groups, stored.shown.get(project_id or ""))
    endpoints: dict[str, list[dict[str, Any]]] = {}
    for endpoint in catalog.endpoints.values():
        url = filled(endpoint.url or "", known)
        if not endpoint.enabled or url is None or (only and endpoint.id not in only):
            continue
        endpoints.setdefault(endpoint.service_id, []).append(
            {
                **endpoint.extra,
                "id": endpoint.id,
                "interface": endpoint.interface,
                "region": endpoint.region_id,
                "region_id": endpoint.region_id,
                "url": url,
            }
        )
    return [
        {
            "id": service.id,
            "type": service.type,
            "name": service.name,
            "endpoints": endpoints.get(service.id, []),
        }
        for service in catalog.services.values()
        if service.enabled and (service.id in endpoints or not only)
    ]


def shown_ids(
    catalog: Catalog, groups: Mapping[str, EndpointGroup], to: Shown | None
) -> frozenset[str]:
    """The endpoints that a project is shown instead of all; none at all means that it sees all."""
    if to is None:
        return frozenset()
    found = {id_ for id_ in to.endpoint_ids if id_ in catalog.endpoints}
    for group_id in to.group_ids:
        if group_id in groups:
            found |= {e.id for e in in_group(catalog, groups[group_id])}
    return frozenset(found)


def in_group(catalog: Catalog, group: EndpointGroup) -> list[CatalogEndpoint]:
    return [
        endpoint
        for endpoint in catalog.endpoints.values()
        if all(getattr(endpoint, name) == value for name, value in group.filters.items())
    ]


# --- addresses with places for ids ---------------------------------------------------------------------


def filled(url: str, known: Mapping[str, str | None]) -> str | None:
    """The address with its places filled; None when something for one of them is not known."""
    if "%" not in url and "$" not in url:
        return url
    missing = False

    def fill(match: re.Match[str]) -> str:
        nonlocal missing
        if match[0] in ("%%", "%"):
            return "%"
        value = known.get(match[1])
        missing = missing or value is None
        return value or ""

    done = _PLACE.sub(fill, url)
    return None if missing else done


def wrong_place(url: str) -> str | None:
    """What of the address stands where only a known place may; None when it is good."""
    for match in _PLACE.finditer(url):
        if match[0] == "%" or (match[1] is not None and match[1] not in PLACES):
            return url[match.start() : match.start() + 40]
    return None


PLACES = ("project_id", "tenant_id", "user_id")
"""What may stand in an address as `%(project_id)s` or `$(project_id)s`."""


@functools.cache
def _derived(what: str) -> str:
    return uuid.uuid5(_NAMESPACE, what).hex
