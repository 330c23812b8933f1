"""OAuth 1.0a over HTTP: /v3/OS-OAUTH1/... and the access tokens of a user."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from cairn.core.errors import Denied, Invalid, NotFound
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import grants, people, store
from cairn.identity.accounts import expiry
from cairn.identity.api_roles import show_role
from cairn.identity.delegation import oauth, oauth_signature
from cairn.identity.delegation.oauth import Issued
from cairn.identity.delegation.oauth_signature import Signed
from cairn.identity.delegation.oauth_store import (
    ACCESS_TOKENS,
    CONSUMERS,
    AccessToken,
    Consumer,
    access_tokens,
)
from cairn.identity.listing import link, listed, listing, page
from cairn.identity.shapes import RoleRef, Words, read

_ROOT = "/v3/OS-OAUTH1"
_FORM = "application/x-www-form-urlencoded"


class ConsumerWish(Struct, frozen=True, kw_only=True):
    description: Words | None = None


class ConsumerBody(Struct, frozen=True, forbid_unknown_fields=True):
    consumer: dict[str, Any]


class AuthorizeBody(Struct, frozen=True, forbid_unknown_fields=True):
    roles: Annotated[list[RoleRef], Meta(max_length=200)]


class OAuthRoutes:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def routes(self) -> tuple[Route, ...]:
        consumers, tokens = f"{_ROOT}/consumers", "/v3/users/{user_id}/OS-OAUTH1/access_tokens"
        consumer, token = f"{consumers}/{{consumer_id}}", f"{tokens}/{{access_token_id}}"
        return (
            Route(method="GET", path=consumers, rule="identity:list_consumers", do=list_consumers),
            Route(method="POST", path=consumers, rule="identity:create_consumer",
                  do=self._create_consumer, body=ConsumerBody, status=201),
            Route(method="GET", path=consumer, rule="identity:get_consumer", do=get_consumer),
            Route(method="PATCH", path=consumer, rule="identity:update_consumer",
                  do=update_consumer, body=ConsumerBody),
            Route(method="DELETE", path=consumer, rule="identity:delete_consumer",
                  do=delete_consumer, status=204),
            # Public: the consumer's signature is the proof.
            Route(method="POST", path=f"{_ROOT}/request_token", rule=None, run=self._request,
                  status=201),
            Route(method="PUT", path=f"{_ROOT}/authorize/{{request_token_id}}",
                  rule="identity:authorize_request_token", do=authorize, body=AuthorizeBody),
            Route(method="POST", path=f"{_ROOT}/access_token", rule=None, run=self._access,
                  status=201),
            Route(method="GET", path=tokens, rule="identity:list_access_tokens", do=list_tokens),
            Route(method="GET", path=token, rule="identity:get_access_token", do=get_token),
            Route(method="DELETE", path=token, rule="identity:delete_access_token",
                  do=delete_token, status=204),
            Route(method="GET", path=f"{token}/roles", rule="identity:list_access_token_roles",
                  do=list_token_roles),
            Route(method="GET", path=f"{token}/roles/{{role_id}}",
                  rule="identity:get_access_token_role", do=get_token_role),
        )  # fmt: skip

    def _create_consumer(self, tx: Tx, call: Call[ConsumerBody]) -> dict[str, Any]:
        changes, extra = _consumer_in(call)
        new = Consumer(id=tx.new_hex_id(), description=changes.get("description"), extra=extra)
        secret = oauth.create_consumer(tx, self._sealer, new)
        return {"consumer": {**show_consumer(call, new), "secret": secret}}

    async def _request(self, database: Database, call: Call[None]) -> Reply:
        signed = _signed(call)
        project_id = call.headers.get("requested-project-id")
        if not project_id:
            raise Invalid("Expecting to find Requested-Project-Id in request.")

        def check(tx: Tx) -> None:
            if store.PROJECTS.get(tx, project_id[:255]) is None:
                raise NotFound(f"Could not find project: {project_id}.")
            oauth.consumer(tx, signed.consumer_id)
            oauth.require_signed(tx, self._sealer, signed, None)

        def issue(tx: Tx) -> Issued:
            return oauth.request(tx, self._sealer, signed.consumer_id, project_id)

        return await _issued(database, signed, check, issue)

    async def _access(self, database: Database, call: Call[None]) -> Reply:
        signed = _signed(call)
        for name, value in (("token", signed.token_id), ("verifier", signed.verifier)):
            if not value:
                raise Invalid(f"Expecting to find oauth_{name} in request.")

        def check(tx: Tx) -> None:
            oauth.require_exchangeable(tx, self._sealer, signed)

        def issue(tx: Tx) -> Issued:
            found = oauth.require_exchangeable(tx, self._sealer, signed)
            return oauth.exchange(tx, self._sealer, found)

        return await _issued(database, signed, check, issue)


def _signed(call: Call[Any]) -> Signed:
    url = f"{call.base_url}{call.url_path}"
    return oauth_signature.read("POST", url, call.query.pairs, call.headers.get("authorization"))


async def _issued(
    database: Database, signed: Signed, check: Callable[[Tx], None], issue: Callable[[Tx], Issued]
) -> Reply:
    """Nobody without a right signature makes the database write anything."""
    await database.read(check)

    def write(tx: Tx) -> Issued:
        oauth.use_nonce(tx, signed)
        return issue(tx)

    issued = await database.write(write)
    text = (
        f"oauth_token={issued.token.id}&oauth_token_secret={issued.secret}"
        f"&oauth_expires_at={expiry.show(issued.token.expires_at)}"
    )
    return Reply(body=text.encode(), content_type=_FORM)


# Consumers


def _consumer_in(call: Call[ConsumerBody]) -> tuple[dict[str, Any], dict[str, Any]]:
    document = call.body.consumer
    if "secret" in document:
        raise Invalid("Field 'secret' of a consumer cannot be given.")
    _, extra = read(document, ConsumerWish, "consumer")
    return ({"description": document["description"]} if "description" in document else {}), extra


def show_consumer(call: Call[Any], one: Consumer) -> dict[str, Any]:
    return {
        **one.extra,
        "id": one.id,
        "description": one.description,
        "links": link(call, f"OS-OAUTH1/consumers/{one.id}"),
    }


def list_consumers(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return listing(tx, call, "consumers", CONSUMERS, [], show_consumer)


def get_consumer(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"consumer": show_consumer(call, oauth.consumer(tx, call.path["consumer_id"]))}


def update_consumer(tx: Tx, call: Call[ConsumerBody]) -> dict[str, Any]:
    old = oauth.consumer(tx, call.path["consumer_id"])
    if call.body.consumer.get("id", old.id) != old.id:
        raise Invalid("Cannot change consumer ID")
    if not call.body.consumer:
        raise Invalid("Field 'consumer' must say what to change.")
    changes, extra = _consumer_in(call)
    new = msgspec.structs.replace(old, **changes, extra={**old.extra, **extra})
    return {"consumer": show_consumer(call, CONSUMERS.save(tx, new))}


def delete_consumer(tx: Tx, call: Call[None]) -> None:
    oauth.delete_consumer(tx, call.path["consumer_id"])


# What users gave away


def _require_own_token(call: Call[Any], what: str) -> None:
    if call.who.delegation is not None:
        raise Denied(f"Cannot {what} with a token issued via delegation.")


def authorize(tx: Tx, call: Call[AuthorizeBody]) -> dict[str, Any]:
    _require_own_token(call, "authorize a request token")
    wanted = [role.named("roles") for role in call.body.roles]
    verifier = oauth.authorize(tx, call.path["request_token_id"], call.who.user_id, wanted)
    return {"token": {"oauth_verifier": verifier}}


def show_token(call: Call[Any], one: AccessToken) -> dict[str, Any]:
    path = f"users/{one.user_id}/OS-OAUTH1/access_tokens/{one.id}"
    return {
        "id": one.id,
        "consumer_id": one.consumer_id,
        "project_id": one.project_id,
        "authorizing_user_id": one.user_id,
        "expires_at": expiry.show(one.expires_at),
        "links": {**link(call, path), "roles": link(call, f"{path}/roles")["self"]},
    }


def list_tokens(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_own_token(call, "manage OAuth access tokens")
    user = people.user(tx, call.path["user_id"])
    mine = [access_tokens.c.user_id == user.id]
    found, following = page(tx, call, ACCESS_TOKENS, mine)
    return listed(call, "access_tokens", [show_token(call, one) for one in found], following)


def _asked(tx: Tx, call: Call[Any]) -> AccessToken:
    return oauth.access_token(tx, call.path["access_token_id"], call.path["user_id"])


def get_token(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_own_token(call, "manage OAuth access tokens")
    return {"access_token": show_token(call, _asked(tx, call))}


def delete_token(tx: Tx, call: Call[None]) -> None:
    _require_own_token(call, "manage OAuth access tokens")
    oauth.delete_access_token(tx, _asked(tx, call).id)


def _show_token_role(call: Call[Any], role: Any) -> dict[str, Any]:
    return {k: v for k, v in show_role(call, role).items() if k != "description"}


def list_token_roles(tx: Tx, call: Call[None]) -> dict[str, Any]:
    one = _asked(tx, call)
    roles = store.ROLES.many(tx, one.role_ids)
    shown = [_show_token_role(call, roles[id_]) for id_ in one.role_ids if id_ in roles]
    return listed(call, "roles", shown)


def get_token_role(tx: Tx, call: Call[None]) -> dict[str, Any]:
    role_id = call.path["role_id"]
    if role_id not in _asked(tx, call).role_ids:
        raise NotFound(f"Could not find role: {role_id}.")
    return {"role": _show_token_role(call, grants.role(tx, role_id))}
