"""What the catalog is made of: regions, services, endpoints, and who is shown which of them.

Cairn's own entries are computed (catalog.py). A stored one with the id of a computed one overrules it:
`is_own` says that a row is such, so that it is nothing any more when its service is not served any more.
"""

from typing import Any

from msgspec import Struct

INTERFACES = ("public", "internal", "admin")


class Region(Struct, frozen=True, kw_only=True):
    id: str
    description: str = ""
    parent_region_id: str | None = None
    extra: dict[str, Any] = {}
    is_own: bool = False


class CatalogService(Struct, frozen=True, kw_only=True):
    id: str
    type: str
    name: str = ""
    enabled: bool = True
    extra: dict[str, Any] = {}  # a description is here, if somebody gave one
    is_own: bool = False


class CatalogEndpoint(Struct, frozen=True, kw_only=True):
    """`url` may have places for ids: `http://swift/v1/AUTH_%(project_id)s`."""

    id: str
    service_id: str
    interface: str
    region_id: str | None
    url: str | None  # None, of our own only: wherever the client that asks reached us
    enabled: bool = True
    extra: dict[str, Any] = {}  # a name and a description are here, if somebody gave them
    is_own: bool = False


class EndpointGroup(Struct, frozen=True, kw_only=True):
    """All endpoints that have what `filters` says: service_id, region_id, interface."""

    id: str
    name: str
    description: str | None = None
    filters: dict[str, Any] = {}


class Shown(Struct, frozen=True, kw_only=True):
    """What projects are shown instead of everything: endpoints one by one, and by group."""

    endpoint_ids: frozenset[str] = frozenset()
    group_ids: frozenset[str] = frozenset()


class Stored(Struct, frozen=True, kw_only=True):
    """All of the catalog that is in the database."""

    regions: tuple[Region, ...] = ()
    services: tuple[CatalogService, ...] = ()
    endpoints: tuple[CatalogEndpoint, ...] = ()
    groups: dict[str, EndpointGroup] = {}
    shown: dict[str, Shown] = {}  # by project


class Catalog(Struct, frozen=True, kw_only=True):
    """Ours and what is stored, by id: ours first, in the order in which they are mounted."""

    regions: dict[str, Region]
    services: dict[str, CatalogService]
    endpoints: dict[str, CatalogEndpoint]
