"""An OpenID provider, as we ask it: where its endpoints are, which keys it signs with, what it says.

What it publishes (discovery, keys) is remembered for minutes. A key that we do not know makes us look
again, but not more often than KEYS_AGAIN_S: anybody can make up the name of a key. Sources: OpenID
Connect Discovery 1.0; RFC 8414; RFC 7662 (introspection); OpenID Connect Core 1.0, 3.1.3 and 5.3.
"""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlsplit

import msgspec
from msgspec import Struct

from cairn.core.errors import CloudError, Unavailable
from cairn.identity import signin
from cairn.identity.federation.asking import Asker, document, unavailable
from cairn.identity.federation.records import OidcClient

REMEMBER_S = 600.0
KEYS_AGAIN_S = 30.0
FAILURE_S = 3.0  # for which a provider that does not answer is not asked again
PROVIDERS_MAX = 64
KEYS_MAX = 100
WELL_KNOWN = "/.well-known/openid-configuration"
_BASIC, _POST = "client_secret_basic", "client_secret_post"


class Metadata(Struct, frozen=True, kw_only=True):
    """What discovery tells, as far as we use it."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    userinfo_endpoint: str = ""
    introspection_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = (_BASIC,)
    introspection_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False


Key = Mapping[str, Any]  # a JSON web key


class _Known:
    """What is remembered of one provider."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.metadata: Metadata | None = None
        self.keys: list[Key] = []
        self.fetched_s = self.keys_s = self.failed_s = float("-inf")
        self.failure: CloudError | None = None


class Providers:
    """All OpenID providers, through one Asker. Only on the event loop."""

    def __init__(self, asker: Asker | None = None) -> None:
        self._asker = asker or Asker()
        self._known: OrderedDict[OidcClient, _Known] = OrderedDict()

    async def metadata(self, client: OidcClient) -> Metadata:
        known, began_s = self._of(client), time.monotonic()
        async with known.lock:
            await self._learn(client, known, began_s)
        assert known.metadata is not None
        return known.metadata

    async def keys(self, client: OidcClient, *, wanted: str | None) -> list[Key]:
        """The provider's keys; read anew if none of them is called `wanted`."""
        known, began_s = self._of(client), time.monotonic()
        async with known.lock:
            await self._learn(client, known, began_s)
            is_there = wanted is None or any(key.get("kid") == wanted for key in known.keys)
            if not is_there and time.monotonic() > known.keys_s + KEYS_AGAIN_S:
                await self._learn_keys(client, known)
        return known.keys

    async def introspect(self, client: OidcClient, secret: str, token: str) -> dict[str, Any]:
        """What the provider says of an access token that only it can read."""
        metadata = await self.metadata(client)
        url = metadata.introspection_endpoint
        if not url or not secret:
            raise signin.refused(
                f"provider {client.provider_id}: an opaque token can be looked into only where the"
                " provider has an introspection endpoint and we have a client secret"
            )
        methods = (
            metadata.introspection_endpoint_auth_methods_supported
            or metadata.token_endpoint_auth_methods_supported
        )
        form, headers = _with_secret(client, secret, methods)
        answer = await self._asker.ask(
            client, url, form={**form, "token": token, "token_type_hint": "access_token"},
            headers=headers,
        )  # fmt: skip
        return document(client, url, answer)

    async def userinfo(self, client: OidcClient, access_token: str) -> dict[str, Any] | None:
        """Claims of the token's user; None when the provider has none for this token."""
        url = (await self.metadata(client)).userinfo_endpoint
        if not url:
            return None
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await self._asker.ask(client, url, headers=headers)
        if answer.status in (400, 401, 403, 404):
            return None
        return document(client, url, answer)

    async def exchange(
        self, client: OidcClient, secret: str, *, code: str, redirect_uri: str, verifier: str
    ) -> dict[str, Any]:
        """Tokens for an authorization code."""
        metadata = await self.metadata(client)
        url = metadata.token_endpoint
        if not url:
            raise unavailable(client, "discovery names no token endpoint")
        form, headers = _with_secret(client, secret, metadata.token_endpoint_auth_methods_supported)
        form |= {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._asker.ask(client, url, form=form, headers=headers)
        if 400 <= answer.status < 500:
            said = answer.body[:200].decode(errors="replace")
            raise signin.refused(f"provider {client.provider_id} refuses the code: {said}")
        return document(client, url, answer)

    def _of(self, client: OidcClient) -> _Known:
        known = self._known.setdefault(client, _Known())
        self._known.move_to_end(client)
        if len(self._known) > PROVIDERS_MAX:
            self._known.popitem(last=False)
        return known

    async def _learn(self, client: OidcClient, known: _Known, began_s: float) -> None:
        """`began_s`: since when somebody waits. What has failed meanwhile has failed for them, too."""
        now = time.monotonic()
        if known.metadata is not None and now < known.fetched_s + REMEMBER_S:
            return
        if known.failure is not None and known.failed_s > min(began_s, now - FAILURE_S):
            raise Unavailable(known.failure.message, because=known.failure.because)
        try:
            known.metadata = await self._discovered(client)
            await self._learn_keys(client, known)
        except CloudError as error:
            known.metadata = None
            known.failure, known.failed_s = error, time.monotonic()
            raise
        known.fetched_s = time.monotonic()

    async def _discovered(self, client: OidcClient) -> Metadata:
        url = client.discovery_url or client.issuer.rstrip("/") + WELL_KNOWN
        said = document(client, url, await self._asker.ask(client, url))
        try:
            found = msgspec.convert({k: v for k, v in said.items() if v is not None}, Metadata)
        except msgspec.ValidationError as error:
            raise unavailable(client, f"{url}: {error}") from error
        if found.issuer != client.issuer:
            raise unavailable(client, f"{url} is of the issuer '{found.issuer[:200]}'")
        for name in ("jwks_uri", "token_endpoint", "userinfo_endpoint", "introspection_endpoint",
                     "authorization_endpoint"):  # fmt: skip
            address = getattr(found, name)
            if address and not is_safe(address, beside=client.issuer):
                raise unavailable(client, f"{url}: '{name}' is no https address")
        return found

    async def _learn_keys(self, client: OidcClient, known: _Known) -> None:
        assert known.metadata is not None, "keys are found by discovery"
        known.keys_s = time.monotonic()  # Before: one that fails is not asked at once again.
        url = known.metadata.jwks_uri
        said = document(client, url, await self._asker.ask(client, url))
        keys = said.get("keys")
        if not isinstance(keys, list) or len(keys) > KEYS_MAX:
            raise unavailable(client, f"{url} has no list of at most {KEYS_MAX} keys")
        known.keys = [key for key in keys if isinstance(key, dict)]


def is_safe(address: str, *, beside: str = "") -> bool:
    """Whether an address has TLS, or is on this machine beside an issuer that is, too."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    if parts.scheme == "https":
        return True
    is_here = host in ("127.0.0.1", "::1", "localhost")
    return parts.scheme == "http" and is_here and (not beside or beside.startswith("http://"))


def _with_secret(
    client: OidcClient, secret: str, methods: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """Form fields and headers by which we prove who we are (RFC 6749, 2.3.1)."""
    if not secret:
        return {"client_id": client.client_id}, {}
    if _POST in methods and _BASIC not in methods:
        return {"client_id": client.client_id, "client_secret": secret}, {}
    pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
    return {}, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
