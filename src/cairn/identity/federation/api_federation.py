"""Identity providers, their protocols, mappings and service providers over HTTP: /v3/OS-FEDERATION/...

Ids are the client's choice, so things are made by PUT. Beside Keystone's own, a protocol has an
`oidc_client`: what an operator of Keystone writes into the web server's configuration (issuer, client,
secret) is a resource here. Its secret goes in and never comes out.
"""

import ssl
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.http.bodies import said
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity.api_tokens import my_domains, my_projects
from cairn.identity.federation import service
from cairn.identity.federation import store as federation_store
from cairn.identity.federation.oidc import is_safe
from cairn.identity.federation.records import (
    Mapping,
    OidcClient,
    Protocol,
    Provider,
    ServiceProvider,
)
from cairn.identity.federation.shapes import (
    MappingBody,
    NewProviderBody,
    OidcClientBody,
    OidcClientWish,
    ProtocolBody,
    ProviderBody,
    ProviderWish,
    ServiceProviderBody,
    ServiceProviderWish,
)
from cairn.identity.listing import filters, link, listed, listing

FEDERATION = "/v3/OS-FEDERATION"
PROVIDER = f"{FEDERATION}/identity_providers/{{idp_id}}"
PROTOCOL = f"{PROVIDER}/protocols/{{protocol_id}}"
ID_CHARACTERS_MAX = 64


class FederationRoutes:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def routes(self) -> tuple[Route, ...]:
        mapping, sp = f"{FEDERATION}/mappings/{{mapping_id}}", f"{FEDERATION}/service_providers"
        client = f"{PROTOCOL}/oidc_client"
        signed_in = "identity:signed_in"
        return (
            Route(method="GET", path=f"{FEDERATION}/identity_providers",
                  rule="identity:list_identity_providers", do=list_providers),
            Route(method="PUT", path=PROVIDER, rule="identity:create_identity_provider",
                  do=create_provider, body=NewProviderBody, status=201),
            Route(method="GET", path=PROVIDER, rule="identity:get_identity_provider",
                  do=get_provider),
            Route(method="PATCH", path=PROVIDER, rule="identity:update_identity_provider",
                  do=update_provider, body=ProviderBody),
            Route(method="DELETE", path=PROVIDER, rule="identity:delete_identity_provider",
                  do=delete_provider, status=204),
            Route(method="GET", path=f"{PROVIDER}/protocols", rule="identity:list_protocols",
                  do=list_protocols),
            Route(method="PUT", path=PROTOCOL, rule="identity:create_protocol", do=create_protocol,
                  body=ProtocolBody, status=201),
            Route(method="GET", path=PROTOCOL, rule="identity:get_protocol", do=get_protocol),
            Route(method="PATCH", path=PROTOCOL, rule="identity:update_protocol",
                  do=update_protocol, body=ProtocolBody),
            Route(method="DELETE", path=PROTOCOL, rule="identity:delete_protocol",
                  do=delete_protocol, status=204),
            Route(method="GET", path=client, rule="identity:get_protocol",
                  do=self._get_oidc_client),
            Route(method="PUT", path=client, rule="identity:update_protocol",
                  do=self._put_oidc_client, body=OidcClientBody),
            Route(method="DELETE", path=client, rule="identity:update_protocol",
                  do=remove_oidc_client, status=204),
            Route(method="GET", path=f"{FEDERATION}/mappings", rule="identity:list_mappings",
                  do=list_mappings),
            Route(method="PUT", path=mapping, rule="identity:create_mapping", do=create_mapping,
                  body=MappingBody, status=201, body_bytes_max=256 * 1024),
            Route(method="GET", path=mapping, rule="identity:get_mapping", do=get_mapping),
            Route(method="PATCH", path=mapping, rule="identity:update_mapping", do=update_mapping,
                  body=MappingBody, body_bytes_max=256 * 1024),
            Route(method="DELETE", path=mapping, rule="identity:delete_mapping",
                  do=delete_mapping, status=204),
            Route(method="GET", path=sp, rule="identity:list_service_providers",
                  do=list_service_providers),
            Route(method="PUT", path=f"{sp}/{{sp_id}}", rule="identity:create_service_provider",
                  do=create_service_provider, body=ServiceProviderBody, status=201),
            Route(method="GET", path=f"{sp}/{{sp_id}}", rule="identity:get_service_provider",
                  do=get_service_provider),
            Route(method="PATCH", path=f"{sp}/{{sp_id}}", rule="identity:update_service_provider",
                  do=update_service_provider, body=ServiceProviderBody),
            Route(method="DELETE", path=f"{sp}/{{sp_id}}", rule="identity:delete_service_provider",
                  do=delete_service_provider, status=204),
            # Older names of /v3/auth/projects and /v3/auth/domains.
            Route(method="GET", path=f"{FEDERATION}/projects", rule=signed_in, do=my_projects),
            Route(method="GET", path=f"{FEDERATION}/domains", rule=signed_in, do=my_domains),
        )  # fmt: skip

    def _get_oidc_client(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        client = service.oidc_client(tx, call.path["idp_id"], call.path["protocol_id"])
        return {"oidc_client": self._shown_client(tx, call, client)}

    def _put_oidc_client(self, tx: Tx, call: Call[OidcClientBody]) -> dict[str, Any]:
        wish = call.body.oidc_client
        _require_usable(wish)
        client = OidcClient(
            provider_id=call.path["idp_id"],
            protocol_id=call.path["protocol_id"],
            issuer=wish.issuer,
            client_id=wish.client_id,
            discovery_url=wish.discovery_url,
            scopes=wish.scopes,
            audiences=wish.audiences,
            ca_certificates=wish.ca_certificates,
        )
        secret = None if wish.client_secret is UNSET else wish.client_secret or ""
        assert not isinstance(secret, UnsetType)
        service.put_oidc_client(tx, self._sealer, client, secret)
        return {"oidc_client": self._shown_client(tx, call, client)}

    def _shown_client(self, tx: Tx, call: Call[Any], client: OidcClient) -> dict[str, Any]:
        path = (
            f"OS-FEDERATION/identity_providers/{client.provider_id}/protocols/{client.protocol_id}"
        )
        return {
            "issuer": client.issuer,
            "client_id": client.client_id,
            "has_client_secret": service.has_secret(tx, self._sealer, client),
            "discovery_url": client.discovery_url,
            "scopes": client.scopes,
            "audiences": client.audiences,
            "ca_certificates": client.ca_certificates,
            # What the provider must be told.
            "redirect_uri": f"{call.base_url}/identity/v3/auth/{path}/websso/callback",
            "links": link(call, f"{path}/oidc_client"),
        }


def _require_usable(wish: OidcClientWish) -> None:
    if not is_safe(wish.issuer) or "?" in wish.issuer:
        raise _wrong("issuer", "must be an https address (http only on this machine's loopback)")
    if wish.discovery_url and not is_safe(wish.discovery_url, beside=wish.issuer):
        raise _wrong("discovery_url", "must be an https address")
    if "openid" not in wish.scopes:
        raise _wrong("scopes", "must have 'openid'")
    if wish.ca_certificates:
        try:
            ssl.create_default_context(cadata=wish.ca_certificates)
        except (ssl.SSLError, ValueError) as error:
            raise _wrong("ca_certificates", "must be certificates in PEM") from error


def _wrong(field: str, reason: str) -> Invalid:
    return Invalid(f"Invalid input for oidc_client: '{field}' {reason}.")


# Providers


def show_provider(call: Call[Any], provider: Provider) -> dict[str, Any]:
    links = link(call, f"OS-FEDERATION/identity_providers/{provider.id}")
    return {
        **msgspec.structs.asdict(provider),
        "links": {**links, "protocols": links["self"] + "/protocols"},
    }


def list_providers(tx: Tx, call: Call[None]) -> dict[str, Any]:
    shelf = federation_store.PROVIDERS
    wanted = filters(call, shelf, ("id", "enabled"))
    return listing(tx, call, "identity_providers", shelf, wanted, show_provider)


def get_provider(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = service.provider(tx, call.path["idp_id"])
    return {"identity_provider": show_provider(call, found)}


def create_provider(tx: Tx, call: Call[NewProviderBody]) -> dict[str, Any]:
    wish = call.body.identity_provider
    changes = _provider_changes(wish)
    made = service.create_provider(tx, _new_id(call, "idp_id"), changes, wish.domain_id)
    return {"identity_provider": show_provider(call, made)}


def update_provider(tx: Tx, call: Call[ProviderBody]) -> dict[str, Any]:
    changes = _some(_provider_changes(call.body.identity_provider), "identity_provider")
    new = service.update_provider(tx, call.path["idp_id"], changes)
    return {"identity_provider": show_provider(call, new)}


def delete_provider(tx: Tx, call: Call[None]) -> None:
    service.delete_provider(tx, call.path["idp_id"])


def _provider_changes(wish: ProviderWish) -> dict[str, Any]:
    changes = said(wish, "enabled", "description", "remote_ids", "authorization_ttl")
    if "remote_ids" in changes:
        changes["remote_ids"] = changes["remote_ids"] or ()
        if len(set(changes["remote_ids"])) != len(changes["remote_ids"]):
            raise Invalid("Invalid input for field 'remote_ids': one of them is there twice.")
    return changes


# Protocols


def show_protocol(call: Call[Any], protocol: Protocol) -> dict[str, Any]:
    home = f"OS-FEDERATION/identity_providers/{protocol.provider_id}"
    shown: dict[str, Any] = {
        "id": protocol.id,
        "mapping_id": protocol.mapping_id,
        "links": {
            **link(call, f"{home}/protocols/{protocol.id}"),
            "identity_provider": link(call, home)["self"],
        },
    }
    if protocol.remote_id_attribute is not None:
        shown["remote_id_attribute"] = protocol.remote_id_attribute
    return shown


def list_protocols(tx: Tx, call: Call[None]) -> dict[str, Any]:
    provider = service.provider(tx, call.path["idp_id"])
    found = federation_store.protocols_of(tx, provider.id)
    shown = [
        {
            **show_protocol(call, one),
            "idp_id": one.provider_id,
            "remote_id_attribute": one.remote_id_attribute,
        }
        for one in found
    ]
    return listed(call, "protocols", shown)


def get_protocol(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = service.protocol(tx, call.path["idp_id"], call.path["protocol_id"])
    return {"protocol": show_protocol(call, found)}


def create_protocol(tx: Tx, call: Call[ProtocolBody]) -> dict[str, Any]:
    changes = said(call.body.protocol, "mapping_id", "remote_id_attribute")
    id_ = _new_id(call, "protocol_id")
    new = Protocol(provider_id=call.path["idp_id"], id=id_, **changes)
    return {"protocol": show_protocol(call, service.create_protocol(tx, new))}


def update_protocol(tx: Tx, call: Call[ProtocolBody]) -> dict[str, Any]:
    changes = said(call.body.protocol, "mapping_id", "remote_id_attribute")
    new = service.update_protocol(tx, call.path["idp_id"], call.path["protocol_id"], changes)
    return {"protocol": show_protocol(call, new)}


def delete_protocol(tx: Tx, call: Call[None]) -> None:
    service.delete_protocol(tx, call.path["idp_id"], call.path["protocol_id"])


def remove_oidc_client(tx: Tx, call: Call[None]) -> None:
    service.remove_oidc_client(tx, call.path["idp_id"], call.path["protocol_id"])


# Mappings


def show_mapping(call: Call[Any], mapping: Mapping) -> dict[str, Any]:
    links = link(call, f"OS-FEDERATION/mappings/{mapping.id}")
    return {**msgspec.structs.asdict(mapping), "links": links}


def list_mappings(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return listing(tx, call, "mappings", federation_store.MAPPINGS, [], show_mapping)


def get_mapping(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"mapping": show_mapping(call, service.mapping(tx, call.path["mapping_id"]))}


def create_mapping(tx: Tx, call: Call[MappingBody]) -> dict[str, Any]:
    new = _mapping(call, _new_id(call, "mapping_id"))
    return {"mapping": show_mapping(call, service.create_mapping(tx, new))}


def update_mapping(tx: Tx, call: Call[MappingBody]) -> dict[str, Any]:
    new = _mapping(call, call.path["mapping_id"])
    return {"mapping": show_mapping(call, service.update_mapping(tx, new))}


def _mapping(call: Call[MappingBody], id_: str) -> Mapping:
    wish = call.body.mapping
    return Mapping(id=id_, rules=wish.rules, schema_version=wish.schema_version or "1.0")


def delete_mapping(tx: Tx, call: Call[None]) -> None:
    service.delete_mapping(tx, call.path["mapping_id"])


# Service providers


def show_service_provider(call: Call[Any], sp: ServiceProvider) -> dict[str, Any]:
    links = link(call, f"OS-FEDERATION/service_providers/{sp.id}")
    return {**msgspec.structs.asdict(sp), "links": links}


def list_service_providers(tx: Tx, call: Call[None]) -> dict[str, Any]:
    shelf = federation_store.SERVICE_PROVIDERS
    wanted = filters(call, shelf, ("id", "enabled"))
    return listing(tx, call, "service_providers", shelf, wanted, show_service_provider)


def get_service_provider(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = service.service_provider(tx, call.path["sp_id"])
    return {"service_provider": show_service_provider(call, found)}


def create_service_provider(tx: Tx, call: Call[ServiceProviderBody]) -> dict[str, Any]:
    changes = _service_provider_changes(call.body.service_provider)
    for name in ("auth_url", "sp_url"):
        if name not in changes:
            raise Invalid(f"Invalid input for service_provider: '{name}' is a required property")
    new = ServiceProvider(id=_new_id(call, "sp_id"), **changes)
    made = service.create_service_provider(tx, new)
    return {"service_provider": show_service_provider(call, made)}


def update_service_provider(tx: Tx, call: Call[ServiceProviderBody]) -> dict[str, Any]:
    changes = _some(_service_provider_changes(call.body.service_provider), "service_provider")
    new = service.update_service_provider(tx, call.path["sp_id"], changes)
    return {"service_provider": show_service_provider(call, new)}


def delete_service_provider(tx: Tx, call: Call[None]) -> None:
    service.delete_service_provider(tx, call.path["sp_id"])


def _service_provider_changes(wish: ServiceProviderWish) -> dict[str, Any]:
    changes = said(wish, "auth_url", "sp_url", "enabled", "description", "relay_state_prefix")
    if changes.get("relay_state_prefix", "") is None:
        del changes["relay_state_prefix"]
    return changes


def _some(changes: dict[str, Any], what: str) -> dict[str, Any]:
    if not changes:
        raise Invalid(f"Invalid input for {what}: nothing is to be changed")
    return changes


def _new_id(call: Call[Any], variable: str) -> str:
    id_ = call.path[variable]
    if len(id_) > ID_CHARACTERS_MAX:
        raise Invalid(f"Invalid input: an id may have at most {ID_CHARACTERS_MAX} characters.")
    return id_
