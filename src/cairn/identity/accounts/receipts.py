"""Receipts: that somebody has proven a part of what the user's rules ask for, so the rest may follow.

A receipt is signed like a token and says who and by which methods; it ends after five minutes, and with
whatever ends the user's tokens. A method whose proof narrows the session (an application credential, a
token, a provider) is not in it: what narrows must come with the request that opens the session.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from cairn.db.engine import Tx
from cairn.http.routes import Reply
from cairn.identity import signin, store
from cairn.identity.accounts import expiry, mfa
from cairn.identity.methods.method import Proof
from cairn.identity.records import Domain, User
from cairn.identity.tokens import RECEIPT_FORM, Payload, TokenIssuer, microseconds, new_audit_id

HEADER = "Openstack-Auth-Receipt"
LIFETIME = timedelta(minutes=5)


class Begun(Struct, frozen=True, kw_only=True):
    """A sign-in that lacks a method."""

    user: User
    user_domain: Domain
    payload: Payload
    required: list[list[str]]


def begun_before(issuer: TokenIssuer, text: str | None) -> Payload | None:
    """The receipt that came with a request. Unauthenticated when it is not ours, or over."""
    return None if text is None else issuer.receipt(text)


def of_unfinished(
    tx: Tx,
    proofs: Sequence[Proof],
    names: Sequence[str],
    receipt: Payload | None,
    *,
    served: Collection[str],
) -> Begun | None:
    """None when what is proven is enough for the user's rules, else what goes into a receipt.

    Raises Unauthenticated: the proofs do not hold, are another user's than the receipt's, or there is
    nothing in them that a receipt could keep.
    """
    user = signin.proven_user(tx, proofs)
    if receipt is not None and receipt.user_id != user.id:
        raise signin.refused("the receipt is another user's")
    kept = receipt.methods if receipt else ()
    earlier = tuple(m for proof in proofs if proof.parent for m in proof.parent.methods)
    if mfa.is_enough(user, {*names, *kept, *earlier}, served):
        return None
    lasting = [name for name, proof in zip(names, proofs, strict=True) if not _narrows(proof)]
    methods = tuple(sorted({*lasting, *kept}))
    required = mfa.missing(user, methods, served)
    domain = store.DOMAINS.get(tx, user.domain_id)
    if not required or domain is None or not domain.enabled:
        raise signin.refused(f"user {user.id} has to prove more than {', '.join(names)}")
    now = microseconds(tx.now)
    payload = Payload(
        form=RECEIPT_FORM,
        user_id=user.id,
        user_domain_id=user.domain_id,
        methods=methods,
        audit_ids=(new_audit_id(tx.random_bytes(16)),),
        issued_us=now,
        expires_us=now + LIFETIME // timedelta(microseconds=1),
        revocations_seen=store.revocations_made(tx),
    )
    return Begun(user=user, user_domain=domain, payload=payload, required=required)


def reply(issuer: TokenIssuer, begun: Begun) -> Reply:
    """401, as the protocol has it: with the receipt in a header, and what is missing in the body."""
    return Reply(body=show(begun), status=401, headers={HEADER: issuer.issue(begun.payload)})


def show(begun: Begun) -> dict[str, Any]:
    payload, user, domain = begun.payload, begun.user, begun.user_domain
    return {
        "receipt": {
            "methods": payload.methods,
            "user": {
                "id": user.id,
                "name": user.name,
                "domain": {"id": domain.id, "name": domain.name},
            },
            "issued_at": expiry.text(payload.issued_at),
            "expires_at": expiry.text(payload.expires_at),
        },
        "required_auth_methods": begun.required,
    }


def _narrows(proof: Proof) -> bool:
    return any(
        part is not None
        for part in (
            proof.parent,
            proof.place,
            proof.role_ids,
            proof.ends_us,
            proof.delegation,
            proof.federation,
        )
    )
