"""Signing in and what a token is good for: /v3/auth/..."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from cairn.core.errors import Invalid, NotFound, Unauthenticated
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import grants, revocation, signin, store, store_grants
from cairn.identity.accounts import expiry, receipts
from cairn.identity.accounts.activity import Activity
from cairn.identity.api_people import show_expiry
from cairn.identity.api_places import show_domains, show_projects
from cairn.identity.catalog.api_catalog import CatalogRoutes
from cairn.identity.listing import listed, page
from cairn.identity.methods.method import Method, Named, ScopeWish
from cairn.identity.methods.oauth1 import NAME as OAUTH1
from cairn.identity.methods.password import domain_name
from cairn.identity.records import SYSTEM
from cairn.identity.shapes import AuthBody, ProjectRef, ScopeRef
from cairn.identity.signin import Session
from cairn.identity.tokens import Federation, Payload, TokenIssuer

ACCESS_RULES_VERSION = 1.0  # what keystonemiddleware says that it enforces


class TokenRoutes:
    """Those that issue, show and end tokens are `run`: the issuer belongs to the event loop's thread."""

    def __init__(
        self,
        issuer: TokenIssuer,
        methods: Sequence[Method],
        catalog_routes: CatalogRoutes,
        activity: Activity,
    ) -> None:
        self._issuer = issuer
        self._methods = {method.name: method for method in methods}
        self._catalog = catalog_routes
        self._activity = activity

    def routes(self) -> tuple[Route, ...]:
        tokens, signed_in = "/v3/auth/tokens", "identity:signed_in"
        return (
            Route(method="POST", path=tokens, rule=None, run=self._sign_in, body=AuthBody, status=201,
                  body_bytes_max=64 * 1024),
            Route(method="GET", path=tokens, rule=signed_in, run=self._show),
            Route(method="DELETE", path=tokens, rule=signed_in, run=self._revoke, status=204),
            Route(method="GET", path="/v3/auth/projects", rule="identity:get_auth_projects", do=my_projects),
            Route(method="GET", path="/v3/auth/domains", rule="identity:get_auth_domains", do=my_domains),
            Route(method="GET", path="/v3/auth/system", rule="identity:get_auth_system", do=my_system),
        )  # fmt: skip

    async def _sign_in(self, database: Database, call: Call[AuthBody]) -> Reply:
        auth = call.body.auth
        names = tuple(dict.fromkeys(auth.identity.methods))
        # Consumers of OAuth are told that a scope they ask for is not heeded.
        wish = None if OAUTH1 in names else scope_wish(auth.scope)
        for name in names:
            if name not in self._methods:
                raise Unauthenticated("Attempted to authenticate with an unsupported method.")
        proofs = [await self._methods[name].prove(database, call) for name in names]
        receipt = receipts.begun_before(self._issuer, call.headers.get(receipts.HEADER.lower()))

        def open_session(tx: Tx) -> Session | receipts.Begun:
            begun = receipts.of_unfinished(tx, proofs, names, receipt, served=self._methods)
            methods = (*names, *(receipt.methods if receipt else ()))
            return begun or signin.open_session(
                tx, proofs, wish, methods=methods, lifetime_s=self._issuer.lifetime_s
            )

        # A use of a trust is taken in the transaction that opens the session.
        transact = database.write if wish is not None and wish.trust_id else database.read
        session = await transact(open_session)
        if isinstance(session, receipts.Begun):
            return receipts.reply(self._issuer, session)
        for proof in proofs:
            if proof.parent is not None:
                # Not revoked while we read: the new token would outlive its parent.
                self._issuer.require_alive(proof.parent)
        await self._activity.note(database, session.payload.user_id)
        token = self._issuer.issue(session.payload)
        return self.described(call, session, token, status=201)

    async def _show(self, database: Database, call: Call[None]) -> Reply:
        token, payload = self._subject(call)
        call.require("identity:validate_token", **{"target.token.user_id": payload.user_id})
        _require_rules_understood(call, payload)
        session = await database.read(lambda tx: signin.session_of(tx, payload))
        return self.described(call, session, token, status=200)

    async def _revoke(self, database: Database, call: Call[None]) -> None:
        _, payload = self._subject(call)
        call.require("identity:revoke_token", **{"target.token.user_id": payload.user_id})
        subject = revocation.of_token(payload.audit_ids[0])
        await database.write(lambda tx: revocation.revoke(tx, subject))

    def _subject(self, call: Call[None]) -> tuple[str, Payload]:
        token = call.headers.get("x-subject-token")
        if not token:
            raise Invalid("The header X-Subject-Token is missing.")
        try:
            return token, self._issuer.payload(token)
        except Unauthenticated as error:
            raise NotFound("Could not find token.", because=error.because) from error

    def described(self, call: Call[Any], session: Session, token: str, *, status: int) -> Reply:
        body = show_session(session)
        if session.payload.scope is not None and "nocatalog" not in call.query:
            project_id, user_id = session.payload.project_id, session.payload.user_id
            body["catalog"] = self._catalog.shown(call, project_id=project_id, user_id=user_id)
        headers = {"X-Subject-Token": token, "Vary": "X-Auth-Token"}
        return Reply(body={"token": body}, status=status, headers=headers)


def _require_rules_understood(call: Call[None], payload: Payload) -> None:
    """A service that knows nothing of access rules must not take a token that is narrowed by them."""
    lent = payload.delegation
    if lent is None or lent.access_rules is None:
        return
    try:
        understood = float(call.headers.get("openstack-identity-access-rules", "0"))
    except ValueError:
        understood = 0.0
    if not understood >= ACCESS_RULES_VERSION:
        raise NotFound("Failed to validate token")


def show_session(session: Session) -> dict[str, Any]:
    payload, user = session.payload, session.user
    shown: dict[str, Any] = {
        "methods": payload.methods,
        "user": {
            "id": user.id,
            "name": user.name,
            "domain": {"id": session.user_domain.id, "name": session.user_domain.name},
            "password_expires_at": show_expiry(user),
        },
        "audit_ids": payload.audit_ids,
        "issued_at": expiry.text(payload.issued_at),
        "expires_at": expiry.text(payload.expires_at),
    }
    domain = session.domain and {"id": session.domain.id, "name": session.domain.name}
    if session.project is not None:
        project = session.project
        shown["project"] = {"id": project.id, "name": project.name, "domain": domain}
        if "OS-TRUST:trust" not in session.delegated:
            shown["is_domain"] = False
    elif domain is not None:
        shown["domain"] = domain
    elif payload.is_system:
        shown["system"] = {"all": True}
    if payload.scope is not None:
        shown["roles"] = [{"id": role.id, "name": role.name} for role in session.roles]
    shown.update(session.delegated)
    if payload.federation is not None and not payload.federation.is_local:
        del shown["user"]["password_expires_at"]
        shown["user"]["OS-FEDERATION"] = show_federation(payload.federation)
    return shown


def show_federation(federation: Federation) -> dict[str, Any]:
    return {
        "identity_provider": {"id": federation.provider_id},
        "protocol": {"id": federation.protocol_id},
        "groups": [{"id": group_id} for group_id in federation.group_ids],
    }


def my_projects(tx: Tx, call: Call[None]) -> dict[str, Any]:
    """The projects that the caller may scope a token to."""
    who = call.who
    mine = [store_grants.projects_of_user(who.user_id, who.group_ids), store.projects.c.enabled]
    shown, following = page(tx, call, store.PROJECTS, mine)
    return listed(call, "projects", show_projects(tx, call, shown), following)


def my_domains(tx: Tx, call: Call[None]) -> dict[str, Any]:
    who = call.who
    mine = [store_grants.domains_of_user(who.user_id, who.group_ids), store.domains.c.enabled]
    shown, following = page(tx, call, store.DOMAINS, mine)
    return listed(call, "domains", show_domains(tx, call, shown), following)


def my_system(tx: Tx, call: Call[None]) -> dict[str, Any]:
    held = grants.held(tx, call.who.user_id, SYSTEM, group_ids=call.who.group_ids)
    return listed(call, "system", [{"all": True}] if held else [])


def scope_wish(scope: ScopeRef | str | None) -> ScopeWish | None:
    """None asks for the default project; an empty wish for no scope."""
    if scope is None:
        return None
    if isinstance(scope, str):
        return ScopeWish()
    asked = [scope.project, scope.domain, scope.system, scope.trust]
    is_unscoped = scope.unscoped is not UNSET
    if sum(part is not None for part in asked) + is_unscoped != 1:
        raise Invalid(
            "Field 'scope' must have exactly one of project, domain, system, unscoped,"
            " OS-TRUST:trust."
        )
    if scope.system is not None and not scope.system.all:
        raise Invalid("Field 'scope.system.all' must be true.")
    return ScopeWish(
        project=_project_name(scope.project),
        domain=domain_name(scope.domain),
        is_system=scope.system is not None,
        trust_id=scope.trust.id if scope.trust is not None else None,
    )


def _project_name(ref: ProjectRef | None) -> Named | None:
    if ref is None:
        return None
    return Named(id=ref.id, name=ref.name, domain=domain_name(ref.domain))
