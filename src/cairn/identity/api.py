"""Keystone v3 over HTTP: the parts of the API put together.

service(Options(issuer=..., passwords=..., entries=lambda: entries_of(services)))
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from cairn.db.secrets import Sealer
from cairn.http import faults
from cairn.http.routes import Service
from cairn.identity import api_places, api_roles
from cairn.identity.api_catalog import CatalogRoutes
from cairn.identity.api_people import PeopleRoutes
from cairn.identity.api_tokens import TokenRoutes
from cairn.identity.catalog import Entry
from cairn.identity.methods.password import PasswordMethod
from cairn.identity.methods.token import TokenMethod
from cairn.identity.passwords import Passwords
from cairn.identity.policy import POLICY
from cairn.identity.tokens import TokenIssuer


class Options(Struct, frozen=True, kw_only=True):
    """What the application hands in."""

    issuer: TokenIssuer
    passwords: Passwords
    sealer: Sealer  # of what is secret in the database
    entries: Callable[[], Sequence[Entry]]  # what is mounted: catalog.entries_of(services)
    region: str = "RegionOne"


def service(options: Options) -> Service:
    catalog = CatalogRoutes(options.entries, options.region)
    methods = (PasswordMethod(options.passwords), TokenMethod(options.issuer))
    return Service(
        name="keystone",
        kind="identity",
        root="/identity",
        catalog_path="",
        policy=POLICY,
        shape_fault=faults.keystone,
        routes=(
            *catalog.routes(),
            *TokenRoutes(options.issuer, methods, catalog).routes(),
            *PeopleRoutes(options.passwords).routes(),
            *api_places.routes(),
            *api_roles.routes(),
        ),
    )
