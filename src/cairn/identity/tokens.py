"""Tokens: what was decided at sign-in, signed, so that a check needs no database.

A token is Fernet (AES-128-CBC and HMAC-SHA256, key files in `keys`) over a msgpack array. It says who, in
which scope, with which roles, and how many revocations the sign-in had seen (see `revocation`). What a
checked token means is remembered by the token's hash, so that repeating it costs no decryption; expiry
and revocations are looked at every time.
"""

import base64
import hashlib
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec
from msgspec import Struct

from cairn.core.caller import Caller, Delegation
from cairn.core.clock import Clock
from cairn.core.errors import Unauthenticated
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.identity import revocation
from cairn.identity.keys import KeyRepository
from cairn.identity.records import ADMIN_ROLE, SYSTEM, Scope, ScopeKind
from cairn.identity.revocation import Revocations

TOKEN_CHARACTERS_MAX = 8192  # longer ones are not ours and are not worth decrypting
REMEMBERED_MAX = 8192  # tokens; about 1.5 KiB each
_FORM = 1  # of the payload; raised when its fields change
RECEIPT_FORM = 101  # the same fields, but good for no request
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSAL = "The request you have made requires authentication."


class Federation(Struct, frozen=True, array_like=True):
    """That somebody else's provider vouched for a user, and which groups follow from what it said."""

    provider_id: str
    protocol_id: str
    group_ids: tuple[str, ...] = ()
    is_local: bool = False  # the user is one of ours, whom the provider only signs in


class Payload(Struct, frozen=True, kw_only=True, array_like=True, dict=True):
    """A token's content. Field order is the wire format; fields at the end may be missing."""

    form: int = _FORM
    user_id: UserId
    user_domain_id: DomainId
    project_id: ProjectId | None = None
    project_domain_id: DomainId | None = None
    scope_domain_id: DomainId | None = None
    is_system: bool = False
    roles: tuple[str, ...] = ()  # names, implied ones included, sorted
    methods: tuple[str, ...]
    audit_ids: tuple[str, ...]  # its own, then the first of its chain if it was made from a token
    issued_us: int  # since the epoch, UTC
    expires_us: int
    revocations_seen: int
    delegation: Delegation | None = None
    federation: Federation | None = None

    @property
    def issued_at(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.issued_us)

    @property
    def expires_at(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.expires_us)

    @property
    def scope(self) -> Scope | None:
        if self.project_id is not None:
            return Scope(kind=ScopeKind.PROJECT, id=self.project_id)
        if self.scope_domain_id is not None:
            return Scope(kind=ScopeKind.DOMAIN, id=self.scope_domain_id)
        return SYSTEM if self.is_system else None

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Everything whose revocation voids this token."""
        found = [
            revocation.of_token(self.audit_ids[0]),
            revocation.of_user(self.user_id),
            revocation.of_domain(self.user_domain_id),
            *(revocation.of_role(name) for name in self.roles),
        ]
        if self.project_domain_id is not None:
            found.append(revocation.of_domain(self.project_domain_id))
            found.append(revocation.of_below(self.user_id, self.project_domain_id))
        if self.scope is not None:
            found.append(revocation.of_scope(self.scope))
            found.append(revocation.of_grant(self.user_id, self.scope))
        if (lent := self.delegation) is not None:
            found.append(revocation.of_delegation(lent.kind, lent.id))
            found.append(revocation.of_user(lent.owner_id))
            found += lent.hangs_on
            if self.scope is not None:
                found.append(revocation.of_grant(lent.owner_id, self.scope))
            if self.project_domain_id is not None:
                found.append(revocation.of_below(lent.owner_id, self.project_domain_id))
        if self.federation is not None:
            found.append(revocation.of_provider(self.federation.provider_id))
            found += (revocation.of_group(group_id) for group_id in self.federation.group_ids)
        return tuple(found)

    def caller(self) -> Caller:
        return Caller(
            user_id=self.user_id,
            user_domain_id=self.user_domain_id,
            project_id=self.project_id,
            project_domain_id=self.project_domain_id,
            scope_domain_id=self.scope_domain_id,
            is_system=self.is_system,
            roles=frozenset(self.roles),
            # With a token for a domain one rules that domain, not the projects of all.
            is_admin=ADMIN_ROLE in self.roles and self.scope_domain_id is None,
            audit_id=self.audit_ids[0],
            delegation=self.delegation,
            group_ids=self.federation.group_ids if self.federation else (),
        )


def microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def new_audit_id(random: bytes) -> str:
    """16 random bytes as 22 characters, as Keystone's audit ids are."""
    assert len(random) == 16, "an audit id has 128 bits"
    return base64.urlsafe_b64encode(random).rstrip(b"=").decode()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Payload).decode


class TokenIssuer:
    """Signs tokens and checks them. Only the thread of the event loop may use it."""

    def __init__(
        self,
        keys: KeyRepository,
        clock: Clock,
        revocations: Revocations,
        *,
        lifetime_s: int = 3600,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._revocations = revocations
        self.lifetime_s = lifetime_s
        self._remembered: OrderedDict[bytes, tuple[Payload, Caller]] = OrderedDict()

    def issue(self, payload: Payload) -> str:
        return self._keys.sign(_encode(payload)).rstrip(b"=").decode()

    def authenticate(self, token: str) -> Caller:
        """Who the token stands for; Unauthenticated if it is not ours, expired or revoked."""
        return self._check(token)[1]

    def payload(self, token: str) -> Payload:
        """What a valid token says; Unauthenticated as `authenticate`."""
        return self._check(token)[0]

    def _check(self, token: str) -> tuple[Payload, Caller]:
        if len(token) > TOKEN_CHARACTERS_MAX or not token.isascii():
            raise Unauthenticated(_REFUSAL, because="not a token of ours")
        # By hash: a look into this process's memory must not yield usable tokens.
        key = hashlib.sha256(token.encode()).digest()
        known = self._remembered.get(key)
        if known is None:
            payload = self._read(token)
            known = (payload, payload.caller())
        self.require_alive(known[0])
        self._remembered[key] = known
        self._remembered.move_to_end(key)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return known

    def receipt(self, text: str) -> Payload:
        """What a valid receipt says (`receipts`); Unauthenticated as `authenticate`."""
        if len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
            raise Unauthenticated(_REFUSAL, because="not a receipt of ours")
        payload = self._read(text, RECEIPT_FORM)
        self.require_alive(payload)
        return payload

    def _read(self, token: str, form: int = _FORM) -> Payload:
        data = self._keys.read((token + "=" * (-len(token) % 4)).encode())
        if data is None:
            raise Unauthenticated(_REFUSAL, because="the token was not signed by us")
        try:
            payload = _decode(data)
        except msgspec.DecodeError as error:
            raise Unauthenticated(_REFUSAL, because="a token of another version") from error
        if payload.form != form:
            raise Unauthenticated(_REFUSAL, because="a token of another version")
        return payload

    def require_alive(self, payload: Payload) -> None:
        """Unauthenticated when the token has expired or was revoked."""
        if payload.expires_us <= microseconds(self._clock.now()):
            raise Unauthenticated(_REFUSAL, because="the token has expired")
        if self._revocations.voids(payload.subjects, issued_at_number=payload.revocations_seen):
            raise Unauthenticated(_REFUSAL, because="the token was revoked")
