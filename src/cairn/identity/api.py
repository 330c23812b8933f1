"""Keystone v3 over HTTP: the parts of the API put together.

service(Options(issuer=..., passwords=..., entries=lambda: entries_of(services)))
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.http import faults
from cairn.http.routes import Service
from cairn.identity import api_places, api_roles
from cairn.identity.api_catalog import CatalogRoutes
from cairn.identity.api_endpoint_groups import EndpointGroupRoutes
from cairn.identity.api_people import PeopleRoutes
from cairn.identity.api_policies import PolicyRoutes
from cairn.identity.api_tokens import TokenRoutes
from cairn.identity.catalog import Entry, Own
from cairn.identity.catalog_memory import CatalogMemory
from cairn.identity.domain_config_api import DomainConfigRoutes
from cairn.identity.methods.password import PasswordMethod
from cairn.identity.methods.token import TokenMethod
from cairn.identity.passwords import Passwords
from cairn.identity.policy import POLICY
from cairn.identity.tokens import TokenIssuer


class Options(Struct, frozen=True, kw_only=True):
    """What the application hands in."""

    database: Database
    issuer: TokenIssuer
    passwords: Passwords
    sealer: Sealer  # of what is secret in the database
    entries: Callable[[], Sequence[Entry]]  # what is mounted: catalog.entries_of(services)
    region: str = "RegionOne"


def service(options: Options) -> Service:
    own = Own(entries=options.entries, region=options.region)
    catalog = CatalogRoutes(own, CatalogMemory(options.database, own))
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
            *EndpointGroupRoutes(own).routes(),
            *PolicyRoutes(own).routes(),
            *TokenRoutes(options.issuer, methods, catalog).routes(),
            *PeopleRoutes(options.passwords).routes(),
            *api_places.routes(),
            *DomainConfigRoutes(options.sealer).routes(),
            *api_roles.routes(),
        ),
    )
