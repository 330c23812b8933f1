"""Whether a token is the provider's, for us, and good now; and what it says.

Only signatures with a private key count: `none` and those with a shared secret are no choice, whatever a
token's header asks for. Sources: OpenID Connect Core 1.0, 3.1.3.7; RFC 9068; RFC 8725.
"""

import base64
import hashlib
from collections.abc import Collection
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cairn.core.errors import Unauthenticated
from cairn.identity import signin
from cairn.identity.federation.oidc import Key, Providers
from cairn.identity.federation.records import OidcClient

TOKEN_CHARACTERS_MAX = 16 * 1024
LEEWAY_S = 30
TRIED_MAX = 8  # keys for a token that names none
RSA_BITS = range(2048, 8193)
KINDS = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP",
}  # fmt: skip
"""Signatures that we take, and the kind of key of each."""

_NO_SIGN_IN = ("logout+jwt", "secevent+jwt", "token-introspection+jwt")
_HALVES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


async def bearer(
    providers: Providers, client: OidcClient, secret: str, token: str
) -> dict[str, Any]:
    """The claims behind an access or id token that a client brought. Raises Unauthenticated."""
    if len(token) > TOKEN_CHARACTERS_MAX or not token.isascii():
        raise _refused(client, "no token of a provider is like this")
    trusted = {client.client_id, *client.audiences}
    if token.count(".") == 2:
        claims, header = await _signed(providers, client, token)
        is_access = "at+jwt" in str(header.get("typ", "")).lower() or bool(
            {"scope", "scp", "client_id"} & claims.keys()
        )
    else:
        claims, is_access = await _introspected(providers, client, secret, token), True
    _require_for(client, claims, trusted)
    if (
        "cnf" in claims
    ):  # Good only with a proof of the key that it is bound to, which we do not ask for.
        raise _refused(client, "a token that is bound to a key is no bearer's")
    return await _completed(providers, client, claims, token) if is_access else claims


async def id_token(
    providers: Providers, client: OidcClient, tokens: dict[str, Any], *, nonce: str
) -> dict[str, Any]:
    """The claims of a sign-in that we asked for ourselves. Raises Unauthenticated."""
    token, access = tokens.get("id_token"), tokens.get("access_token")
    if not isinstance(token, str) or len(token) > TOKEN_CHARACTERS_MAX:
        raise _refused(client, "the answer to the code has no id token")
    claims, header = await _signed(providers, client, token)
    if client.client_id not in _audience(claims):
        raise _refused(client, "the id token is for somebody else")
    if claims.get("azp", client.client_id) != client.client_id:
        raise _refused(client, "the id token was issued to somebody else")
    if claims.get("nonce") != nonce:
        raise _refused(client, "the id token answers another request")
    if not isinstance(access, str):
        return claims
    if "at_hash" in claims and claims["at_hash"] != _half(access, str(header.get("alg"))):
        raise _refused(client, "the access token is not the id token's")
    return await _completed(providers, client, claims, access)


async def _signed(
    providers: Providers, client: OidcClient, token: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Claims and header of a token with a good signature, of this issuer, at this time."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _refused(client, f"no token: {error}") from error
    name, kid = header.get("alg"), header.get("kid")
    if not isinstance(name, str) or name not in KINDS:
        raise _refused(client, f"signed with '{str(name)[:20]}', which proves nothing")
    if "crit" in header or str(header.get("typ", "")).lower() in _NO_SIGN_IN:
        raise _refused(client, "a token of another purpose")
    if kid is not None and not isinstance(kid, str):
        raise _refused(client, "the key's name is no text")
    keys = await providers.keys(client, wanted=kid)
    fitting = [key for key in keys if _fits(key, name, kid)]
    if not fitting:
        raise _refused(client, f"no key '{str(kid)[:60]}' for {name}")
    claims = _verified(client, token, name, fitting[:TRIED_MAX])
    if "events" in claims:  # Security events and logouts are signed, too.
        raise _refused(client, "a token of another purpose")
    return claims, header


def _fits(key: Key, name: str, kid: str | None) -> bool:
    return (
        key.get("kty") == KINDS[name]
        and key.get("alg", name) == name
        and key.get("use", "sig") == "sig"
        and (kid is None or key.get("kid") == kid)
    )


def _verified(client: OidcClient, token: str, name: str, keys: list[Key]) -> dict[str, Any]:
    reason = ""
    for key in keys:
        try:
            known = jwt.PyJWK(dict(key), algorithm=name)
            public = known.key
            if isinstance(public, RSAPublicKey) and public.key_size not in RSA_BITS:
                reason = f"a key of {public.key_size} bits"
                continue
            return jwt.decode(
                token,
                key=known,
                algorithms=[name],
                issuer=client.issuer,
                leeway=LEEWAY_S,
                # The audience is looked at by `_require_for`: it may be one of several.
                options={"require": ["exp", "iss"], "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise _refused(client, reason)


async def _introspected(
    providers: Providers, client: OidcClient, secret: str, token: str
) -> dict[str, Any]:
    claims = await providers.introspect(client, secret, token)
    if claims.get("active") is not True:
        raise _refused(client, "the provider says that the access token is not good")
    if str(claims.get("token_type", "Bearer")).lower() not in ("bearer", "access_token"):
        raise _refused(client, "not an access token")
    if claims.get("iss", client.issuer) != client.issuer:
        raise _refused(client, "the access token is of another issuer")
    return {**claims, "iss": client.issuer}


async def _completed(
    providers: Providers, client: OidcClient, claims: dict[str, Any], access_token: str
) -> dict[str, Any]:
    """With what the provider tells about the user; what it signed counts more."""
    more = await providers.userinfo(client, access_token)
    if more is None:
        return claims
    if more.get("sub") != claims.get("sub"):
        raise _refused(client, "the user of the access token is another one")
    return {**more, **claims}


def _require_for(client: OidcClient, claims: dict[str, Any], trusted: Collection[str]) -> None:
    """For us, or issued to a client of ours: else any other site of the provider could be its users here."""
    audience = _audience(claims)
    issued_to = claims.get("azp", claims.get("client_id"))
    if not audience & set(trusted) and issued_to not in trusted:
        raise _refused(client, f"the token is for {sorted(audience)[:5]}, not for us")


def _audience(claims: dict[str, Any]) -> set[str]:
    said = claims.get("aud", [])
    return {one for one in (said if isinstance(said, list) else [said]) if isinstance(one, str)}


def _half(access_token: str, name: str) -> str:
    digest = _HALVES.get(name[-3:], hashlib.sha512)(access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def _refused(client: OidcClient, because: str) -> Unauthenticated:
    return signin.refused(f"provider {client.provider_id}, {client.protocol_id}: {because}"[:500])
