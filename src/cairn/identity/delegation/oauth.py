"""OAuth 1.0a: a consumer asks for leave, a user gives it, the consumer acts for the user.

Source: api-ref, Identity v3 extensions, "OS-OAUTH1"; RFC 5849. Request: the consumer names a project.
Authorize: a user of it agrees to some roles and gets a verifier to pass on. Access: the consumer trades
the request token and the verifier for an access token, which signs in until it ends or is taken back.
"""

import hashlib
import hmac
from datetime import timedelta

from msgspec import Struct
from sqlalchemy import ColumnElement

from cairn.core.caller import Delegation
from cairn.core.errors import Conflict, Invalid, NotFound, Unauthenticated
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity import grants, revocation
from cairn.identity.delegation import oauth_store
from cairn.identity.delegation.oauth_signature import CLOCK_SECONDS_MAX, Signed
from cairn.identity.delegation.oauth_store import (
    ACCESS_TOKENS,
    CONSUMERS,
    REQUEST_TOKENS,
    AccessToken,
    Consumer,
    RequestToken,
    access_tokens,
    request_tokens,
)
from cairn.identity.records import Scope, ScopeKind

KIND = "oauth1"
REQUEST_TOKEN_LIFETIME = timedelta(hours=8)  # Keystone's own defaults
ACCESS_TOKEN_LIFETIME = timedelta(hours=24)
_NONCE_LIFETIME = timedelta(seconds=2 * CLOCK_SECONDS_MAX)  # after that, its time alone refuses it
_VERIFIER_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VERIFIER_LENGTH = 8
_MANY = 1000  # that are read at once


class Issued(Struct, frozen=True, kw_only=True):
    """What only the one answer to its maker shows whole."""

    token: RequestToken | AccessToken
    secret: str


# Consumers


def consumer(tx: Tx, id_: str) -> Consumer:
    found = CONSUMERS.get(tx, id_)
    if found is None:
        raise NotFound("Consumer not found")
    return found


def create_consumer(tx: Tx, sealer: Sealer, new: Consumer) -> str:
    """Its secret."""
    CONSUMERS.add(tx, new)
    return _new_secret(tx, sealer, new.id)


def delete_consumer(tx: Tx, id_: str) -> None:
    """With everything that was asked for or given through it."""
    consumer(tx, id_)
    _forget_requests(tx, request_tokens.c.consumer_id == id_)
    _forget_accesses(tx, access_tokens.c.consumer_id == id_)
    oauth_store.forget_secret(tx, id_)
    CONSUMERS.remove(tx, id_)


# Request, authorize, access


def require_signed(tx: Tx, sealer: Sealer, signed: Signed, token_id: str | None) -> None:
    """Unauthenticated unless consumer and, if there is one, token have signed this just now."""
    secret = oauth_store.secret_of(tx, sealer, signed.consumer_id)
    token_secret = oauth_store.secret_of(tx, sealer, token_id) if token_id else None
    # Compared in any case: how long it takes must not tell which ids there are.
    is_right = signed.is_by(secret or "-", token_secret or ("-" if token_id else None))
    if not is_right or secret is None or (token_id and token_secret is None):
        raise Unauthenticated("Invalid signature")
    if not signed.is_recent(tx.now):
        raise Unauthenticated("The request was signed too long ago, or by a clock that is wrong.")


def use_nonce(tx: Tx, signed: Signed) -> None:
    """Unauthenticated when this very request was made before."""
    said = f"{signed.consumer_id} {signed.token_id or ''} {signed.timestamp} {signed.nonce}"
    digest = hashlib.sha256(said.encode()).hexdigest()
    try:
        oauth_store.use_nonce(tx, digest, forget_before=tx.now - _NONCE_LIFETIME)
    except Conflict as error:
        raise Unauthenticated("The nonce was used already.") from error


def request(tx: Tx, sealer: Sealer, consumer_id: str, project_id: str) -> Issued:
    _forget_requests(tx, request_tokens.c.expires_at < tx.now)
    new = RequestToken(
        id=tx.new_hex_id(),
        consumer_id=consumer(tx, consumer_id).id,
        project_id=ProjectId(project_id),
        expires_at=tx.now + REQUEST_TOKEN_LIFETIME,
    )
    REQUEST_TOKENS.add(tx, new)
    return Issued(token=new, secret=_new_secret(tx, sealer, new.id))


def request_token(tx: Tx, id_: str) -> RequestToken:
    found = REQUEST_TOKENS.get(tx, id_)
    if found is None:
        raise NotFound("Request token not found")
    if found.expires_at <= tx.now:
        raise Unauthenticated("Request token is expired")
    return found


def authorize(
    tx: Tx, id_: str, user_id: UserId, wanted: list[tuple[str | None, str | None]]
) -> str:
    """The user agrees; the verifier that the consumer must bring."""
    found = request_token(tx, id_)
    role_ids = [id_ or grants.role_named(tx, name or "").id for id_, name in wanted]
    scope = Scope(kind=ScopeKind.PROJECT, id=found.project_id)
    if not {*role_ids} <= {role.id for role in grants.held(tx, user_id, scope)}:
        raise Unauthenticated("authorizing user does not have role required")
    if not role_ids:
        raise Invalid("Field 'roles' must name at least one role.")
    count = len(_VERIFIER_CHARACTERS)
    drawn = int.from_bytes(tx.random_bytes(32), "big")  # so many that the remainder favours none
    verifier = ""
    for _ in range(_VERIFIER_LENGTH):
        drawn, index = divmod(drawn, count)
        verifier += _VERIFIER_CHARACTERS[index]
    agreed = RequestToken(
        id=found.id,
        consumer_id=found.consumer_id,
        project_id=found.project_id,
        user_id=user_id,
        role_ids=tuple(dict.fromkeys(role_ids)),
        verifier=verifier,
        expires_at=found.expires_at,
    )
    REQUEST_TOKENS.save(tx, agreed)
    return verifier


def require_exchangeable(tx: Tx, sealer: Sealer, signed: Signed) -> RequestToken:
    """The request token that a signed request may trade for an access token."""
    found = request_token(tx, signed.token_id or "")
    require_signed(tx, sealer, signed, found.id)
    if found.consumer_id != signed.consumer_id:
        raise Unauthenticated("Provided consumer key does not match stored consumer key.")
    if found.verifier is None or found.user_id is None:
        raise Unauthenticated("Request Token does not have an authorizing user id.")
    if not hmac.compare_digest(found.verifier.encode(), (signed.verifier or "").encode()):
        raise Unauthenticated("Provided verifier does not match stored verifier")
    return found


def exchange(tx: Tx, sealer: Sealer, found: RequestToken) -> Issued:
    """The access token for a request token, which is used up."""
    assert found.user_id is not None, "it was asked whether somebody agreed"
    if not oauth_store.take_request_token(tx, found.id):
        raise NotFound("Request token not found")
    oauth_store.forget_secret(tx, found.id)
    _forget_accesses(tx, access_tokens.c.expires_at < tx.now)
    new = AccessToken(
        id=tx.new_hex_id(),
        consumer_id=found.consumer_id,
        project_id=found.project_id,
        user_id=found.user_id,
        role_ids=found.role_ids,
        expires_at=tx.now + ACCESS_TOKEN_LIFETIME,
    )
    ACCESS_TOKENS.add(tx, new)
    return Issued(token=new, secret=_new_secret(tx, sealer, new.id))


# Access tokens


def access_token(tx: Tx, id_: str, user_id: str) -> AccessToken:
    found = ACCESS_TOKENS.get(tx, id_)
    if found is None or found.user_id != user_id:
        raise NotFound("Access token not found")
    return found


def delegation(one: AccessToken) -> Delegation:
    return Delegation(kind=KIND, id=one.id, owner_id=one.user_id, actor_id=one.consumer_id)


def delete_access_token(tx: Tx, id_: str) -> None:
    revocation.revoke(tx, revocation.of_delegation(KIND, id_))
    oauth_store.forget_secret(tx, id_)
    ACCESS_TOKENS.remove(tx, id_)


def forget_user(tx: Tx, user_id: UserId) -> None:
    _forget_requests(tx, request_tokens.c.user_id == user_id)
    _forget_accesses(tx, access_tokens.c.user_id == user_id)


def forget_project(tx: Tx, project_id: ProjectId) -> None:
    _forget_requests(tx, request_tokens.c.project_id == project_id)
    _forget_accesses(tx, access_tokens.c.project_id == project_id)


def _forget_requests(tx: Tx, which: ColumnElement[bool]) -> None:
    while found := REQUEST_TOKENS.page(tx, [which], limit=_MANY):
        for one in found:
            oauth_store.forget_secret(tx, one.id)
            REQUEST_TOKENS.remove(tx, one.id)


def _forget_accesses(tx: Tx, which: ColumnElement[bool]) -> None:
    while found := ACCESS_TOKENS.page(tx, [which], limit=_MANY):
        for one in found:
            delete_access_token(tx, one.id)


def _new_secret(tx: Tx, sealer: Sealer, id_: str) -> str:
    secret = tx.random_bytes(16).hex()
    oauth_store.put_secret(tx, sealer, id_, secret)
    return secret
