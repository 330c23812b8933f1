"""Signing in with an identity provider, from a command line (a token of it) or from a browser.

    GET|POST /v3/OS-FEDERATION/identity_providers/{idp}/protocols/{protocol}/auth     Bearer token in
    GET|POST /v3/auth/OS-FEDERATION/websso/{protocol}?origin=                         by browser
    GET|POST /v3/auth/OS-FEDERATION/identity_providers/{idp}/protocols/{protocol}/websso?origin=
    GET      /v3/auth/OS-FEDERATION/identity_providers/{idp}/protocols/{protocol}/websso/callback

Providers are asked with no transaction open; then one transaction finds or makes the user and opens the
session. Each is a change, also by GET, so that the audit trail has it.
"""

import base64
import os
from collections.abc import Collection
from typing import Any
from urllib.parse import quote, urlencode

from cairn.core.errors import Invalid, NotFound, Unauthenticated
from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import signin
from cairn.identity.accounts import mfa
from cairn.identity.api_tokens import show_session
from cairn.identity.federation import admission, service, store, verify, websso
from cairn.identity.federation.api_federation import FEDERATION, PROTOCOL
from cairn.identity.federation.asking import unavailable
from cairn.identity.federation.oidc import Providers
from cairn.identity.federation.service import Asked
from cairn.identity.methods.method import ScopeWish
from cairn.identity.signin import Session
from cairn.identity.tokens import TokenIssuer

WEBSSO = f"{PROTOCOL.replace(FEDERATION, '/v3/auth/OS-FEDERATION')}/websso"
_HTML = "text/html; charset=utf-8"


class SignOnRoutes:
    def __init__(
        self,
        issuer: TokenIssuer,
        sealer: Sealer,
        *,
        served: Collection[str] = (),
        dashboards: Collection[str] = (),
        providers: Providers | None = None,
    ) -> None:
        """`served`: the other methods there are. `dashboards`: the origins that may be given a token, each
        exactly as its sign-in names it."""
        self._issuer = issuer
        self._sealer = sealer
        self._served = frozenset(served)
        self._dashboards = frozenset(dashboards)
        self._providers = providers or Providers()

    def routes(self) -> tuple[Route, ...]:
        auth, by_protocol = f"{PROTOCOL}/auth", "/v3/auth/OS-FEDERATION/websso/{protocol_id}"
        return (
            Route(method="GET", path=auth, rule=None, run=self._auth, status=201, reads=False),
            Route(method="POST", path=auth, rule=None, run=self._auth, status=201),
            Route(method="GET", path=WEBSSO, rule=None, run=self._begin, status=302),
            Route(method="POST", path=WEBSSO, rule=None, run=self._begin, status=302, reads=True),
            Route(method="GET", path=by_protocol, rule=None, run=self._choose, status=302),
            Route(method="POST", path=by_protocol, rule=None, run=self._choose, status=302,
                  reads=True),
            Route(method="GET", path=f"{WEBSSO}/callback", rule=None, run=self._finish,
                  reads=False),
        )  # fmt: skip

    async def _auth(self, database: Database, call: Call[None]) -> Reply:
        asked = await self._asked(database, call.path["idp_id"], call.path["protocol_id"])
        kind, _, token = call.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise signin.refused("no bearer token came with the request")
        claims = await verify.bearer(self._providers, asked.client, asked.secret, token.strip())
        session = await self._session(database, asked, claims)
        headers = {"X-Subject-Token": self._issuer.issue(session.payload), "Vary": "X-Auth-Token"}
        return Reply(body={"token": show_session(session)}, headers=headers)

    async def _begin(self, database: Database, call: Call[None]) -> Reply:
        return await self._redirect(
            database, call, call.path["idp_id"], call.path["protocol_id"], self._origin(call)
        )

    async def _choose(self, database: Database, call: Call[None]) -> Reply:
        """Of all providers with this protocol: the only one, or whichever the user chooses."""
        origin, protocol_id = self._origin(call), call.path["protocol_id"]
        found = await database.read(lambda tx: store.protocols_named(tx, protocol_id))
        if not found:
            raise NotFound(f"Could not find federated protocol {protocol_id}.")
        if len(found) == 1:
            return await self._redirect(database, call, found[0].provider_id, protocol_id, origin)
        links = {
            one.provider_id: f"{_websso_url(call, one.provider_id, one.id)}?"
            + urlencode({"origin": origin})
            for one in found
        }
        page, headers = websso.page_of_choice(links)
        return Reply(body=page, status=200, headers=headers, content_type=_HTML)

    async def _redirect(
        self, database: Database, call: Call[None], idp_id: str, protocol_id: str, origin: str
    ) -> Reply:
        asked = await self._asked(database, idp_id, protocol_id)
        metadata = await self._providers.metadata(asked.client)
        if not metadata.authorization_endpoint:
            raise unavailable(asked.client, "discovery names no authorization endpoint")
        redirect_uri = f"{_websso_url(call, idp_id, protocol_id)}/callback"
        begun = await database.read(
            lambda tx: websso.begin(
                tx, idp_id, protocol_id, origin=origin, redirect_uri=redirect_uri
            )
        )
        headers = {
            "Location": websso.address(begun, asked.client, metadata),
            "Set-Cookie": websso.cookie(begun, self._sealer, os.urandom(12)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        return Reply(headers=headers)

    async def _finish(self, database: Database, call: Call[None]) -> Reply:
        idp_id, protocol_id = call.path["idp_id"], call.path["protocol_id"]
        query = call.query
        asked = await self._asked(database, idp_id, protocol_id)
        begun = await database.write(
            lambda tx: websso.finish(
                tx, self._sealer, call.headers.get("cookie", ""), state=query.get("state"),
                provider_id=idp_id, protocol_id=protocol_id,
            )
        )  # fmt: skip
        if begun.origin not in self._dashboards:
            raise _untrusted(begun.origin)
        code = self._code(call, asked, await self._expects_issuer(asked))
        tokens = await self._providers.exchange(
            asked.client, asked.secret, code=code, redirect_uri=begun.redirect_uri,
            verifier=begun.verifier,
        )  # fmt: skip
        claims = await verify.id_token(self._providers, asked.client, tokens, nonce=begun.nonce)
        session = await self._session(database, asked, claims)
        random = base64.urlsafe_b64encode(os.urandom(18)).decode()
        token = self._issuer.issue(session.payload)
        page, headers = websso.page_with_token(begun.origin, token, random)
        headers["Set-Cookie"] = websso.cookie_that_ends(begun)
        return Reply(body=page, status=200, headers=headers, content_type=_HTML)

    async def _expects_issuer(self, asked: Asked) -> bool:
        metadata = await self._providers.metadata(asked.client)
        return metadata.authorization_response_iss_parameter_supported

    def _code(self, call: Call[None], asked: Asked, expects_issuer: bool) -> str:
        """The code in the provider's answer. Raises Unauthenticated when there is none for us."""
        query, who = call.query, asked.client
        issuer = query.get("iss")
        if issuer != who.issuer and (expects_issuer or issuer is not None):
            raise signin.refused(f"provider {who.provider_id}: the answer is of another issuer")
        if (wrong := query.get("error")) is not None:
            detail = (query.get("error_description") or "")[:200]
            raise signin.refused(f"provider {who.provider_id} says '{wrong[:60]}': {detail}")
        if not (code := query.get("code")):
            raise Invalid("Query parameter 'code' is missing.")
        return code

    async def _asked(self, database: Database, idp_id: str, protocol_id: str) -> Asked:
        return await database.read(lambda tx: service.asked(tx, self._sealer, idp_id, protocol_id))

    async def _session(self, database: Database, asked: Asked, claims: dict[str, Any]) -> Session:
        def open_session(tx: Any) -> Session:
            proof = admission.admit(tx, asked, claims)
            way = asked.protocol.id
            session = signin.open_session(
                tx, [proof], ScopeWish(), methods=(way,), lifetime_s=self._issuer.lifetime_s
            )
            if not mfa.is_enough(session.user, (way,), {way, *self._served}):
                raise signin.refused(f"user {session.user.id} has to prove more than {way}")
            return session

        return await database.write(open_session)

    def _origin(self, call: Call[None]) -> str:
        origin = call.query.get("origin")
        if not origin:
            raise Invalid("Request must have an origin query parameter")
        if origin not in self._dashboards:
            raise _untrusted(origin)
        return origin


def _untrusted(origin: str) -> Unauthenticated:
    shown = origin[:200]
    return Unauthenticated(f"{shown} is not a trusted dashboard host", because="see the settings")


def _websso_url(call: Call[None], idp_id: str, protocol_id: str) -> str:
    path = WEBSSO.format(idp_id=quote(idp_id, safe=""), protocol_id=quote(protocol_id, safe=""))
    return f"{call.base_url}/identity{path}"
