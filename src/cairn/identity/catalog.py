"""The catalog: which services there are and at which address, as the client that asks can reach them.

Nothing of it is stored. It follows from what is mounted and from the address that the client itself used,
so it is right behind a proxy, under a second name and after a move; ids are derived from what they name
and stay the same everywhere.
"""

import functools
import uuid
from collections.abc import Iterable, Sequence

from msgspec import Struct

from cairn.http.routes import Service

INTERFACES = ("public", "internal", "admin")
ALIASES = {"block-storage": ("volumev3", "cinderv3")}
"""Types under which older clients still look for a service, and the service's name there."""

_NAMESPACE = uuid.UUID("6c1dfb0e-39a4-5a55-9d4e-3c4be1a5bd0f")


class Entry(Struct, frozen=True, kw_only=True):
    """One service that clients can find."""

    name: str  # "nova"
    kind: str  # "compute"
    path: str  # "/compute/v2.1"

    @property
    def id(self) -> str:
        return _derived(self.kind)


class Endpoint(Struct, frozen=True, kw_only=True):
    """One address of a service."""

    entry: Entry
    interface: str
    region: str
    url: str

    @property
    def id(self) -> str:
        return _derived(f"{self.region}/{self.entry.kind}/{self.interface}")


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


def endpoints_of(entries: Sequence[Entry], *, base_url: str, region: str) -> list[Endpoint]:
    return [
        Endpoint(entry=entry, interface=interface, region=region, url=base_url + entry.path)
        for entry in entries
        for interface in INTERFACES
    ]


@functools.cache
def _derived(what: str) -> str:
    return uuid.uuid5(_NAMESPACE, what).hex
