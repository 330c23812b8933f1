"""Web sign-on: what we must remember between sending a browser to its provider and seeing it again.

It is sealed in a cookie, so that no process has to remember it and nobody else can finish the sign-in:
the provider's answer is taken only from the browser that has the cookie of its `state`, within minutes,
and once. Sources: OpenID Connect Core 1.0, 3.1.2; RFC 7636 (PKCE); RFC 9207 (issuer in the answer).
"""

import base64
import hashlib
import html
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity import signin
from cairn.identity.federation import store
from cairn.identity.federation.oidc import Metadata
from cairn.identity.federation.records import OidcClient

LASTS_S = 600
COOKIE_CHARACTERS_MAX = 4096
_SEAL = "identity.oidc-state"


class Begun(Struct, frozen=True, array_like=True):
    """One sign-in under way."""

    provider_id: str
    protocol_id: str
    state: str
    nonce: str
    verifier: str
    origin: str  # the dashboard that gets the token
    redirect_uri: str
    ends_s: float  # since the epoch


def begin(tx: Tx, provider_id: str, protocol_id: str, *, origin: str, redirect_uri: str) -> Begun:
    return Begun(
        provider_id,
        protocol_id,
        _random(tx),
        _random(tx),
        _random(tx),
        origin,
        redirect_uri,
        (tx.now + timedelta(seconds=LASTS_S)).timestamp(),
    )


def address(begun: Begun, client: OidcClient, metadata: Metadata) -> str:
    """Where the browser goes."""
    challenge = hashlib.sha256(begun.verifier.encode()).digest()
    query = urlencode(
        {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": begun.redirect_uri,
            "scope": " ".join(client.scopes),
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": _text(challenge),
            "code_challenge_method": "S256",
        }
    )
    glue = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
    return f"{metadata.authorization_endpoint}{glue}{query}"


def cookie(begun: Begun, sealer: Sealer, random: bytes) -> str:
    """A Set-Cookie header's value. Lax: the provider's redirect is from another site, and a GET."""
    sealed = sealer.seal(_SEAL, msgspec.msgpack.encode(begun), nonce=random)
    return f"{cookie_name(begun.state)}={_text(sealed)}; {_where(begun)}; Max-Age={LASTS_S}"


def cookie_that_ends(begun: Begun) -> str:
    return f"{cookie_name(begun.state)}=; {_where(begun)}; Max-Age=0"


def cookie_name(state: str) -> str:
    """One for each sign-in: two tabs do not disturb each other."""
    return f"cairn-sign-on-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


def _where(begun: Begun) -> str:
    secure = "; Secure" if begun.redirect_uri.startswith("https:") else ""
    path = urlsplit(begun.redirect_uri).path
    return f"Path={path}; HttpOnly; SameSite=Lax{secure}"


def finish(
    tx: Tx, sealer: Sealer, cookies: str, *, state: str | None, provider_id: str, protocol_id: str
) -> Begun:
    """The sign-in that this browser began with this state; it cannot be finished again."""
    if not state:
        raise Invalid("Query parameter 'state' is missing.")
    wanted = cookie_name(state)
    pairs = (part.strip().partition("=") for part in cookies.split(";"))
    sealed = next((value for name, _, value in pairs if name == wanted), "")
    if not sealed or len(sealed) > COOKIE_CHARACTERS_MAX:
        raise signin.refused("this browser did not begin the sign-in, or its cookie has ended")
    try:
        data = sealer.open(_SEAL, base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)))
        begun = msgspec.msgpack.decode(data, type=Begun)
    except (Invalid, ValueError, msgspec.DecodeError) as error:
        raise signin.refused("the sign-in's cookie was not made by us") from error
    if begun.state != state or (begun.provider_id, begun.protocol_id) != (provider_id, protocol_id):
        raise signin.refused("the sign-in's cookie belongs to another one")
    if begun.ends_s < tx.now.timestamp():
        raise signin.refused("the sign-in took too long")
    digest = hashlib.sha256(state.encode()).hexdigest()
    if not store.use_state(tx, digest, datetime.fromtimestamp(begun.ends_s, UTC)):
        raise signin.refused("the sign-in was finished before")
    return begun


def page_with_token(origin: str, token: str, random: str) -> tuple[bytes, dict[str, str]]:
    """The page that hands the token to the dashboard, as Keystone's does, and its headers."""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Signing in</title></head>
<body>
<form id="sso" name="sso" action="{html.escape(origin)}" method="post">
<input type="hidden" name="token" id="token" value="{html.escape(token)}">
<p>You are signed in.</p>
<noscript><input type="submit" value="Continue"></noscript>
</form>
<script nonce="{random}">document.forms["sso"].submit();</script>
</body>
</html>
"""
    return page.encode(), page_headers(script=random, form_to=origin)


def page_of_choice(links: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """The page on which somebody chooses among several providers."""
    items = "\n".join(
        f'<li><a href="{html.escape(to)}">{html.escape(name)}</a></li>'
        for name, to in links.items()
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Sign in</title></head>
<body><h1>Sign in with</h1>
<ul>
{items}
</ul>
</body>
</html>
"""
    return page.encode(), page_headers()


def page_headers(*, script: str = "", form_to: str = "") -> dict[str, str]:
    rules = ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
    if script:
        rules.append(f"script-src 'nonce-{script}'")
    if form_to:
        parts = urlsplit(form_to)
        rules.append(f"form-action {parts.scheme}://{parts.netloc}")
    return {
        "Content-Security-Policy": "; ".join(rules),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _random(tx: Tx) -> str:
    return _text(tx.random_bytes(32))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
