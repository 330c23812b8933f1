"""Application credentials and access rules over HTTP: /v3/users/{user_id}/..."""

import base64
from typing import Annotated, Any

from msgspec import Meta, Struct

from cairn.core.errors import Denied, Invalid
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Route, tells
from cairn.identity import people, store
from cairn.identity.accounts import expiry
from cairn.identity.accounts.passwords import Passwords
from cairn.identity.api_roles import show_role
from cairn.identity.delegation import application_credentials as verbs
from cairn.identity.delegation.application_credentials_store import (
    ACCESS_RULES,
    APPLICATION_CREDENTIALS,
    ApplicationCredential,
    KeptRule,
    access_rules,
    application_credentials,
)
from cairn.identity.listing import filters, link, listed, listing, page
from cairn.identity.shapes import Id, LongName, RoleRef, Words

SECRET_BYTES = 64
RULES_MAX = 100
METHODS = "DELETE|GET|HEAD|PATCH|POST|PUT"


class AccessRuleWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule that is there already, by its id, or all three of the rest."""

    id: Id | None = None
    service: Annotated[str, Meta(max_length=64, pattern=r"\A[a-zA-Z0-9-]+\Z")] | None = None
    method: Annotated[str, Meta(pattern=rf"\A({METHODS})\Z")] | None = None
    path: Annotated[str, Meta(max_length=225, pattern=r"\A/[^\x00]*\Z")] | None = None


class ApplicationCredentialWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: LongName
    id: Any = None  # of what a client echoes: Keystone takes these and does not heed them
    project_id: str | None = None
    system: str | None = None
    secret: Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")] | None = None
    description: Words | None = None
    expires_at: str | None = None
    unrestricted: bool | None = None
    roles: Annotated[list[RoleRef], Meta(max_length=200)] | None = None
    access_rules: Annotated[list[AccessRuleWish], Meta(max_length=RULES_MAX)] | None = None


class ApplicationCredentialBody(Struct, frozen=True, forbid_unknown_fields=True):
    application_credential: ApplicationCredentialWish


class ApplicationCredentialRoutes:
    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    def routes(self) -> tuple[Route, ...]:
        many, rules = (
            "/v3/users/{user_id}/application_credentials",
            "/v3/users/{user_id}/access_rules",
        )
        one, rule = f"{many}/{{application_credential_id}}", f"{rules}/{{access_rule_id}}"
        return (
            Route(method="GET", path=many, rule="identity:list_application_credentials", do=list_),
            Route(method="POST", path=many, rule="identity:create_application_credential",
                  run=self._create, body=ApplicationCredentialBody, status=201, body_bytes_max=256 * 1024),
            Route(method="GET", path=one, rule="identity:get_application_credential", do=get,
                  target=_owner),
            Route(method="DELETE", path=one, rule="identity:delete_application_credential",
                  do=delete, target=_owner, status=204),
            Route(method="GET", path=rules, rule="identity:list_access_rules", do=list_rules,
                  target=_user),
            Route(method="GET", path=rule, rule="identity:get_access_rule", do=get_rule,
                  target=_user),
            Route(method="DELETE", path=rule, rule="identity:delete_access_rule", do=delete_rule,
                  target=_user, status=204),
        )  # fmt: skip

    async def _create(
        self, database: Database, call: Call[ApplicationCredentialBody]
    ) -> dict[str, Any]:
        wish = call.body.application_credential
        _require_leave(call, changes=True)
        if call.who.project_id is None:
            raise Denied("An application credential is made with a token of a project.")
        # Asked before, too: a secret is dear to hash, and most mistakes show here.
        await database.read(lambda tx: _new(tx, call, with_rules=False))
        generated = await database.read(_generated_secret)
        secret = wish.secret or generated
        hash_ = await self._passwords.hash(secret)

        def create(tx: Tx) -> dict[str, Any]:
            made = verbs.create(tx, _new(tx, call, with_rules=True), hash_)
            return show(tx, call, made)

        shown = await database.write(create)
        return {"application_credential": {**shown, "secret": secret}}


def _generated_secret(tx: Tx) -> str:
    return base64.urlsafe_b64encode(tx.random_bytes(SECRET_BYTES)).rstrip(b"=").decode()


def _new(
    tx: Tx, call: Call[ApplicationCredentialBody], *, with_rules: bool
) -> ApplicationCredential:
    wish, who = call.body.application_credential, call.who
    wanted = [role.named("roles") for role in wish.roles or ()]
    rules = [_rule(tx, call, rule) for rule in wish.access_rules or ()] if with_rules else []
    return ApplicationCredential(
        id=tx.new_hex_id(),
        name=wish.name,
        user_id=UserId(people.user(tx, who.user_id).id),
        project_id=ProjectId(who.home),
        description=wish.description,
        role_ids=tuple(verbs.roles_of(tx, who, wanted)),
        rule_ids=tuple(dict.fromkeys(rule.id for rule in rules)),
        expires_at=expiry.parse(wish.expires_at, tx.now) if wish.expires_at else None,
        unrestricted=bool(wish.unrestricted),
    )


def _rule(tx: Tx, call: Call[ApplicationCredentialBody], wish: AccessRuleWish) -> KeptRule:
    if wish.id is not None:
        return verbs.access_rule(tx, call.who.user_id, wish.id)
    if wish.service is None or wish.method is None or wish.path is None:
        raise Invalid("Field 'access_rules': each needs an id, or service, method and path.")
    return verbs.keep_rule(tx, call.who.user_id, (wish.service, wish.method, wish.path))


def _require_leave(call: Call[Any], *, changes: bool = False) -> None:
    """Denied to those who act for another: what they make here would outlive their leave."""
    lent = call.who.delegation
    if lent is None:
        return
    if lent.kind != verbs.KIND:
        raise Denied("Cannot manage application credentials with a token issued via delegation.")
    if changes and not lent.may_delegate:
        raise Denied(
            "You are not authorized to perform the requested action: Using method"
            " 'application_credential' is not allowed for managing additional application"
            " credentials."
        )


@tells("user_id")
def _owner(tx: Tx, call: Call[Any]) -> dict[str, str | None]:
    """Whose it is, whatever the path says."""
    found = APPLICATION_CREDENTIALS.get(tx, call.path["application_credential_id"])
    return {} if found is None else {"user_id": found.user_id}


@tells("target.user.id")
def _user(tx: Tx, call: Call[Any]) -> dict[str, str | None]:
    user = store.USERS.get(tx, call.path["user_id"])
    return {} if user is None else {"target.user.id": user.id}


def show(tx: Tx, call: Call[Any], one: ApplicationCredential) -> dict[str, Any]:
    roles = store.ROLES.many(tx, one.role_ids)
    shown: dict[str, Any] = {
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "user_id": one.user_id,
        "project_id": one.project_id,
        "system": None,
        # Without a Z: clients compare it with what they sent.
        "expires_at": one.expires_at and one.expires_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "unrestricted": one.unrestricted,
        "roles": [_brief(call, roles[id_]) for id_ in one.role_ids if id_ in roles],
        "links": link(call, f"users/{one.user_id}/application_credentials/{one.id}"),
    }
    if one.rule_ids:
        shown["access_rules"] = [show_rule(rule) for rule in verbs.rules_of(tx, one)]
    return shown


def _brief(call: Call[Any], role: Any) -> dict[str, Any]:
    shown = show_role(call, role)
    return {key: shown[key] for key in ("id", "name", "domain_id", "description", "options")}


def show_rule(rule: KeptRule) -> dict[str, Any]:
    return {"id": rule.id, "service": rule.service, "path": rule.path, "method": rule.method}


def list_(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_leave(call)
    user = people.user(tx, call.path["user_id"])
    wanted = [
        application_credentials.c.user_id == user.id,
        *filters(call, APPLICATION_CREDENTIALS, ("name",)),
    ]
    found, following = page(tx, call, APPLICATION_CREDENTIALS, wanted)
    shown = [show(tx, call, one) for one in found]
    return listed(call, "application_credentials", shown, following)


def _asked(tx: Tx, call: Call[Any]) -> ApplicationCredential:
    people.user(tx, call.path["user_id"])
    return verbs.credential(tx, call.path["application_credential_id"])


def get(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_leave(call)
    return {"application_credential": show(tx, call, _asked(tx, call))}


def delete(tx: Tx, call: Call[None]) -> None:
    _require_leave(call, changes=True)
    verbs.delete(tx, _asked(tx, call).id)


def list_rules(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_leave(call)
    user = people.user(tx, call.path["user_id"])
    wanted = [
        access_rules.c.user_id == user.id,
        *filters(call, ACCESS_RULES, ("service", "path", "method")),
    ]

    def show_one(call: Call[Any], rule: KeptRule) -> dict[str, Any]:
        return _linked(call, rule)

    return listing(tx, call, "access_rules", ACCESS_RULES, wanted, show_one)


def _linked(call: Call[Any], rule: KeptRule) -> dict[str, Any]:
    return {**show_rule(rule), "links": link(call, f"users/{rule.user_id}/access_rules/{rule.id}")}


def get_rule(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_leave(call)
    rule = verbs.access_rule(tx, call.path["user_id"], call.path["access_rule_id"])
    return {"access_rule": _linked(call, rule)}


def delete_rule(tx: Tx, call: Call[None]) -> None:
    _require_leave(call, changes=True)
    verbs.delete_access_rule(tx, call.path["user_id"], call.path["access_rule_id"])
