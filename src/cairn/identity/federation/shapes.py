"""What clients send to federation. Limits are Keystone's, but for remote ids: issuers are longer than 64."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

RemoteId = Annotated[str, Meta(min_length=1, max_length=255)]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=225)]
Text = Annotated[str, Meta(max_length=16384)]
Word = Annotated[str, Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,255}$")]  # RFC 6749, scope-token


class ProviderWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    remote_ids: Annotated[tuple[RemoteId, ...], Meta(max_length=100)] | UnsetType | None = UNSET
    authorization_ttl: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType | None = UNSET


class NewProviderWish(ProviderWish, frozen=True, kw_only=True, forbid_unknown_fields=True):
    domain_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class NewProviderBody(Struct, frozen=True, forbid_unknown_fields=True):
    identity_provider: NewProviderWish


class ProviderBody(Struct, frozen=True, forbid_unknown_fields=True):
    identity_provider: ProviderWish


class ProtocolWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mapping_id: Annotated[str, Meta(min_length=1, max_length=64)]
    remote_id_attribute: Annotated[str, Meta(max_length=64)] | UnsetType | None = UNSET


class ProtocolBody(Struct, frozen=True, forbid_unknown_fields=True):
    protocol: ProtocolWish


class MappingWish(Struct, frozen=True, kw_only=True):
    rules: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    schema_version: str | None = None


class MappingBody(Struct, frozen=True):
    mapping: MappingWish


class ServiceProviderWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    auth_url: Url | UnsetType = UNSET
    sp_url: Url | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    relay_state_prefix: Annotated[str, Meta(max_length=256)] | UnsetType | None = UNSET


class ServiceProviderBody(Struct, frozen=True, forbid_unknown_fields=True):
    service_provider: ServiceProviderWish


class OidcClientWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuer: Annotated[str, Meta(max_length=1024)]
    client_id: Annotated[str, Meta(min_length=1, max_length=1024)]
    client_secret: Annotated[str, Meta(max_length=4096)] | UnsetType | None = UNSET
    discovery_url: Annotated[str, Meta(max_length=1024)] = ""
    scopes: Annotated[tuple[Word, ...], Meta(max_length=50)] = ("openid", "profile", "email")
    audiences: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=50)
    ] = ()
    ca_certificates: Annotated[str, Meta(max_length=128 * 1024)] = ""


class OidcClientBody(Struct, frozen=True, forbid_unknown_fields=True):
    oidc_client: OidcClientWish
