"""What federation knows: providers, the protocols they are asked with, and who their users are here."""

from datetime import datetime
from typing import Any

from msgspec import Struct

from cairn.core.ids import DomainId, UserId
from cairn.identity.records import GroupId


class Provider(Struct, frozen=True, kw_only=True):
    """An organisation that vouches for its own users. Those live in `domain_id`."""

    id: str
    domain_id: DomainId
    enabled: bool = False
    description: str | None = None
    remote_ids: tuple[str, ...] = ()  # the issuers it may be; none: whichever its protocol names
    authorization_ttl: int | None = None  # minutes for which its groups outlast a sign-in


class Protocol(Struct, frozen=True, kw_only=True):
    """One way of asking a provider, and the mapping of what it says."""

    provider_id: str
    id: str
    mapping_id: str
    remote_id_attribute: str | None = None  # the claim that `remote_ids` lists; None: the issuer


class OidcClient(Struct, frozen=True, kw_only=True):
    """How we are known to an OpenID provider. Its secret is sealed elsewhere and never in a record."""

    provider_id: str
    protocol_id: str
    issuer: str
    client_id: str
    discovery_url: str = ""  # "": below the issuer, where the standard has it
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    audiences: tuple[str, ...] = ()  # other clients (a command line's) whose tokens are good here
    ca_certificates: str = ""  # PEM; "": the machine's


class Mapping(Struct, frozen=True, kw_only=True):
    """Rules as the operator wrote them; `mapping.rules_of` reads them."""

    id: str
    rules: tuple[dict[str, Any], ...]
    schema_version: str = "1.0"


class ServiceProvider(Struct, frozen=True, kw_only=True):
    """Another cloud that may trust this one. Kept for clients; nothing here asks it."""

    id: str
    auth_url: str
    sp_url: str
    enabled: bool = False
    description: str | None = None
    relay_state_prefix: str = "ss:mem:"


class Link(Struct, frozen=True, kw_only=True):
    """Whom a provider means by `unique_id`."""

    provider_id: str
    protocol_id: str
    unique_id: str
    user_id: UserId


class LastingGroup(Struct, frozen=True, kw_only=True):
    """A membership that a provider gave, until it ends. The user is a member like any other meanwhile."""

    user_id: UserId
    group_id: GroupId
    provider_id: str
    ends_at: datetime
