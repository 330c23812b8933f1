"""How a machine becomes a member, renews what proves it, and is one no more.

A token's secret is kept as its SHA-256 and good for one key: the machine makes its key before it asks, so
a join that was cut off anywhere is repeated with the same key and gives the same host. A refusal is an
answer and not an error, because it is counted.

A removed host is remembered until it says that it has cleaned up. Only then is an agent told to: one that
is merely unknown here (a database put back from yesterday) is refused, and keeps what it has.
"""

from datetime import timedelta
from typing import Protocol

from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import join_store, loss_store, service, store
from cairn.fleet.join_records import Applicant, Farewell, Reason, Refusal, Token, Verdict, Wishes
from cairn.fleet.records import Node
from cairn.wire import token as wire_token

LIFETIME_S = 86400
LIFETIME_S_MAX = 30 * 86400
TOKENS_LISTED_MAX = 1000
EXPIRED_KEPT = timedelta(days=30)  # so that `token list` tells why a join of last week failed
FAREWELLS_KEPT = timedelta(days=800)  # longer than any certificate that we give out is good
TOKEN_ORIGIN = "token "  # noqa: S105 - the beginning of Node.origin of those who joined


class Authority(Protocol):
    """Who gives out certificates; the application hands it in."""

    pem: bytes
    fingerprint: bytes
    name: str

    def key_digest(self, request: bytes) -> str:
        """Raises Invalid if it is no request that its own key has signed."""
        ...

    def may_be_at(self, address: str) -> bool:
        """False for the control plane's own addresses."""
        ...

    def issue(self, request: bytes, node_id: NodeId, *, address: str) -> bytes:
        """A certificate (PEM) for the request's key and nothing else that it says."""
        ...


# --- tokens ------------------------------------------------------------------------------------------


def create_token(tx: Tx, wishes: Wishes, *, lifetime_s: int) -> tuple[Token, bytes]:
    """A new token and its secret, which is told this once."""
    join_store.remove_tokens_expired_before(tx, tx.now - EXPIRED_KEPT)
    secret = tx.random_bytes(wire_token.SECRET_BYTES)
    new = Token(
        id=tx.new_id(),
        zone=wishes.zone,
        rack=wishes.rack,
        roles=wishes.roles,
        labels=wishes.labels,
        made_at=tx.now,
        expires_at=tx.now + timedelta(seconds=lifetime_s),
    )
    join_store.add_token(tx, new, secret_digest=wire_token.digest(secret))
    return new, secret


def tokens(tx: Tx) -> list[Token]:
    """The newest first."""
    return join_store.newest_tokens(tx, TOKENS_LISTED_MAX)


def revoke_token(tx: Tx, token_id: str) -> None:
    """Nobody joins with it any more; whoever did stays. Raises NotFound."""
    if not join_store.remove_token(tx, token_id):
        raise NotFound(f"There is no join token {token_id}.")


# --- joining -----------------------------------------------------------------------------------------


def join(tx: Tx, secret: bytes, who: Applicant) -> Verdict:
    """Make the machine a member, or say why not. Repeatable with the same key."""
    token = join_store.token_with(tx, wire_token.digest(secret))
    if token is None:
        return Refusal(
            reason=Reason.UNKNOWN,
            message="The token is not known here: it was revoked, or the host that used it was removed."
            " `cairn token create` on the control plane makes another.",
        )
    if token.used_by is not None:
        return _again(tx, token, who)
    if token.expires_at <= tx.now:
        return Refusal(
            reason=Reason.EXPIRED,
            message=f"The token expired on {_day(token.expires_at)}."
            " `cairn token create` on the control plane makes another.",
        )
    known = join_store.node_with_key(tx, who.key_digest)
    if (refusal := _clash(tx, who, known)) is not None:
        return refusal
    return _take_in(tx, token, who, known)


def member(tx: Tx, secret: bytes, node_id: NodeId) -> Node | None:
    """The host, for the machine that joined with the secret; None for anybody else."""
    token = join_store.token_with(tx, wire_token.digest(secret))
    return store.node(tx, node_id) if token is not None and token.used_by == node_id else None


def _again(tx: Tx, token: Token, who: Applicant) -> Verdict:
    """The token was used: by this very machine, whose join was cut off, or by another."""
    assert token.used_by is not None and token.used_at is not None
    try:
        node = store.node(tx, token.used_by)
    except NotFound:
        node = None
    if node is not None and who.key_digest == node.key_digest == token.used_key_digest:
        join_store.introduce(tx, node.id, who)
        return store.node(tx, node.id)
    return Refusal(
        reason=Reason.USED,
        message=f"The token was used already, by host {token.used_hostname} on"
        f" {_day(token.used_at)}: each host needs its own.",
    )


def _clash(tx: Tx, who: Applicant, known: Node | None) -> Refusal | None:
    """Two hosts of one name, or at one address, could not be told apart."""
    others = [
        n for n in store.nodes_named(tx, who.hostname, 2) if known is None or n.id != known.id
    ]
    if others:
        return Refusal(
            reason=Reason.NAME,
            message=f"There is a host named {who.hostname} already ({others[0].id}). Join under another"
            " name (--name), or, if that host is gone for good, `cairn host remove` it first.",
        )
    at = join_store.node_at(tx, who.address)
    if at is not None and (known is None or at.id != known.id):
        return Refusal(
            reason=Reason.ADDRESS,
            message=f"Host {at.hostname} has the address {who.address} already. Join with another"
            " (--address), or, if that host is gone for good, `cairn host remove` it first.",
        )
    return None


def _take_in(tx: Tx, token: Token, who: Applicant, known: Node | None) -> Node:
    node_id = known.id if known is not None else NodeId(tx.new_id())
    if not join_store.use_token(
        tx, token.id, node_id, hostname=who.hostname, key_digest=who.key_digest
    ):
        raise Conflict("Another machine used the token at this very moment.")
    if known is None:
        service.enrol(
            tx,
            node_id,
            hostname=who.hostname,
            zone=token.zone,
            roles=token.roles,
            origin=f"{TOKEN_ORIGIN}{token.id}",
        )
        join_store.place_in_rack(tx, node_id, rack=token.rack, labels=token.labels)
    join_store.introduce(tx, node_id, who)
    return store.node(tx, node_id)


def _day(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# --- staying -----------------------------------------------------------------------------------------


def renew(tx: Tx, node_id: NodeId, key_digest: str) -> str:
    """Note the host's next key; the address that its certificate speaks for. Raises NotFound."""
    node = store.node(tx, node_id)
    join_store.set_key(tx, node_id, key_digest)
    return node.address or (node.facts.address if node.facts is not None else "") or "127.0.0.1"


# --- leaving -----------------------------------------------------------------------------------------


def remove(tx: Tx, node: Node) -> None:
    """The host is no member any more; its agent is told to clean up when it is heard of next."""
    join_store.remove_node(tx, node.id)
    join_store.remove_tokens_used_by(tx, node.id)
    loss_store.remove(tx, node.id)
    join_store.remove_farewells_before(tx, tx.now - FAREWELLS_KEPT)
    join_store.add_farewell(tx, node.id, node.hostname)
    tx.wake(service.topic(node.id))
    tx.wake(service.HOSTS_TOPIC)
    service.touch_zone(tx, node.zone)


def farewell(tx: Tx, node_id: NodeId) -> Farewell | None:
    """Whether the host was removed, and has yet to clean up."""
    return join_store.farewell_of(tx, node_id)


def left(tx: Tx, node_id: NodeId) -> None:
    """The removed host has cleaned up: nothing of it remains here either. Repeatable."""
    join_store.remove_farewell(tx, node_id)


def has_joined(node: Node) -> bool:
    """Whether it came by a token; the others run a control plane and were there from the start."""
    return node.origin.startswith(TOKEN_ORIGIN)


def require_secret(secret: bytes) -> bytes:
    """Raises Invalid: it has another length than ours have."""
    if len(secret) != wire_token.SECRET_BYTES:
        raise Invalid(f"secret: must be {wire_token.SECRET_BYTES} bytes in base64url.")
    return secret
