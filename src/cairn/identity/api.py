"""Keystone v3 over HTTP: the parts of the API put together.

service(Options(issuer=..., passwords=..., entries=lambda: entries_of(services)))
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from cairn.core.limits import Limits
from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.http import faults
from cairn.http.routes import Service
from cairn.identity import api_assignments, api_grants, api_places, api_revocations, api_roles
from cairn.identity.accounts.activity import Activity
from cairn.identity.accounts.lockout import Lockout
from cairn.identity.accounts.passwords import Passwords
from cairn.identity.accounts.security import Security
from cairn.identity.api_limits import LimitRoutes
from cairn.identity.api_people import PeopleRoutes
from cairn.identity.api_tokens import TokenRoutes
from cairn.identity.catalog.api_catalog import CatalogRoutes
from cairn.identity.catalog.api_endpoint_groups import EndpointGroupRoutes
from cairn.identity.catalog.api_policies import PolicyRoutes
from cairn.identity.catalog.catalog import Entry, Own
from cairn.identity.catalog.memory import CatalogMemory
from cairn.identity.credentials.api_credentials import CredentialRoutes
from cairn.identity.credentials.api_ec2 import Ec2Routes
from cairn.identity.delegation import api_trusts
from cairn.identity.delegation.api_application_credentials import ApplicationCredentialRoutes
from cairn.identity.delegation.api_oauth import OAuthRoutes
from cairn.identity.directory import routes as directory_routes
from cairn.identity.directory.api_domain_config import DomainConfigRoutes
from cairn.identity.directory.directories import Directories
from cairn.identity.federation.api_federation import FederationRoutes
from cairn.identity.federation.api_signon import SignOnRoutes
from cairn.identity.methods.application_credential import ApplicationCredentialMethod
from cairn.identity.methods.method import Method
from cairn.identity.methods.oauth1 import OAuth1Method
from cairn.identity.methods.password import PasswordMethod
from cairn.identity.methods.token import TokenMethod
from cairn.identity.methods.totp import TotpMethod
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
    limits: Sequence[Limits] = ()  # of all slices
    directories: Directories | None = None
    security: Security = Security()
    dashboards: Sequence[str] = ()  # origins that web sign-on may hand tokens to


def service(options: Options) -> Service:
    own = Own(entries=options.entries, region=options.region)
    catalog = CatalogRoutes(own, CatalogMemory(options.database, own))
    lockout = Lockout(options.security, options.sealer)
    directories = options.directories or Directories(options.database, options.sealer)
    methods: tuple[Method, ...] = (
        PasswordMethod(options.passwords, lockout, (directories,)),
        TotpMethod(options.sealer, lockout),
        TokenMethod(options.issuer),
        ApplicationCredentialMethod(options.passwords),
        OAuth1Method(options.sealer),
    )
    tokens = TokenRoutes(options.issuer, methods, catalog, Activity(options.security))
    return Service(
        name="keystone",
        kind="identity",
        root="/identity",
        catalog_path="",
        policy=POLICY,
        shape_fault=faults.keystone,
        ignores_last_slash=True,
        routes=(
            *catalog.routes(),
            *EndpointGroupRoutes(own).routes(),
            *PolicyRoutes(own).routes(),
            *LimitRoutes(own, options.limits).routes(),
            *tokens.routes(),
            *directory_routes.over(
                directories, PeopleRoutes(options.passwords, lockout, options.security).routes()
            ),
            *CredentialRoutes(options.sealer).routes(),
            *Ec2Routes(options.issuer, options.sealer, tokens).routes(),
            *api_places.routes(),
            *DomainConfigRoutes(options.sealer, options.security).routes(),
            *api_roles.routes(),
            *ApplicationCredentialRoutes(options.passwords).routes(),
            *api_trusts.routes(),
            *OAuthRoutes(options.sealer).routes(),
            *FederationRoutes(options.sealer).routes(),
            *SignOnRoutes(
                options.issuer,
                options.sealer,
                served=[method.name for method in methods],
                dashboards=options.dashboards,
            ).routes(),
            *api_grants.routes(),
            *api_assignments.routes(),
            *api_revocations.routes(),
        ),
    )
