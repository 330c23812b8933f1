"""The tables of join tokens, and of hosts that were removed and do not know it yet."""

from datetime import datetime

from sqlalchemy import Column, ColumnElement, Index, String, Table, select

from cairn.core.ids import NodeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.fleet import loss_store, store
from cairn.fleet.join_records import Applicant, Farewell, Token
from cairn.fleet.records import Node
from cairn.fleet.store import nodes

tokens = Table(
    "join_tokens",
    metadata,
    id_column(primary_key=True),
    Column("secret_digest", String(64), nullable=False, unique=True),
    Column("zone", String(255), nullable=False),
    Column("rack", String(255), nullable=False),
    Column("roles", Json(tuple[str, ...]), nullable=False),
    Column("labels", Json(dict[str, str]), nullable=False),
    Column("made_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("used_at", Time),
    id_column("used_by"),
    Column("used_hostname", String(255)),
    Column("used_key_digest", String(64)),
    Index("ix_join_tokens_made_at", "made_at", "id"),
    Index("ix_join_tokens_used_by", "used_by"),
)

farewells = Table(
    "removed_nodes",
    metadata,
    id_column("node_id", primary_key=True),
    Column("hostname", String(255), nullable=False),
    Column("removed_at", Time, nullable=False),
)

_TOKEN = [c for c in tokens.c if c.name != "secret_digest"]


def _token(row: object) -> Token:
    return Token(**row._mapping)  # type: ignore[attr-defined]


def add_token(tx: Tx, new: Token, *, secret_digest: str) -> None:
    values = {name: getattr(new, name) for name in new.__struct_fields__}
    tx.execute(tokens.insert().values(**values, secret_digest=secret_digest))


def token_with(tx: Tx, secret_digest: str) -> Token | None:
    row = tx.execute(select(*_TOKEN).where(tokens.c.secret_digest == secret_digest)).one_or_none()
    return None if row is None else _token(row)


def newest_tokens(tx: Tx, limit: int) -> list[Token]:
    query = select(*_TOKEN).order_by(tokens.c.made_at.desc(), tokens.c.id).limit(limit)
    return [_token(row) for row in tx.execute(query)]


def use_token(tx: Tx, token_id: str, node_id: NodeId, *, hostname: str, key_digest: str) -> bool:
    """False when somebody else used it first."""
    done = tx.execute(
        tokens.update()
        .where(tokens.c.id == token_id, tokens.c.used_by.is_(None))
        .values(
            used_at=tx.now,
            used_by=node_id,
            used_hostname=hostname,
            used_key_digest=key_digest,
        )
    )
    return done.rowcount == 1


def remove_token(tx: Tx, token_id: str) -> bool:
    return tx.execute(tokens.delete().where(tokens.c.id == token_id)).rowcount == 1


def remove_tokens_used_by(tx: Tx, node_id: NodeId) -> None:
    tx.execute(tokens.delete().where(tokens.c.used_by == node_id))


def remove_tokens_expired_before(tx: Tx, moment: datetime) -> None:
    tx.execute(tokens.delete().where(tokens.c.expires_at < moment, tokens.c.used_by.is_(None)))


# --- hosts that join -------------------------------------------------------------------------------


def node_with_key(tx: Tx, key_digest: str) -> Node | None:
    """The host whose key it is."""
    return _first_node(tx, nodes.c.key_digest == key_digest)


def node_at(tx: Tx, address: str) -> Node | None:
    """A host whose certificate speaks for the address."""
    return _first_node(tx, nodes.c.address == address)


def _first_node(tx: Tx, where: ColumnElement[bool]) -> Node | None:
    node_id = tx.execute(select(nodes.c.id).where(where).order_by(nodes.c.id).limit(1)).scalar()
    return None if node_id is None else store.node(tx, NodeId(node_id))


def introduce(tx: Tx, node_id: NodeId, who: Applicant) -> None:
    """What a host says of itself before its agent is heard of."""
    tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(
            hostname=who.hostname,
            address=who.address,
            key_digest=who.key_digest,
            agent_version=who.agent_version,
        )
    )


def set_key(tx: Tx, node_id: NodeId, key_digest: str) -> None:
    tx.execute(nodes.update().where(nodes.c.id == node_id).values(key_digest=key_digest))


def place_in_rack(tx: Tx, node_id: NodeId, *, rack: str, labels: dict[str, str]) -> None:
    tx.execute(nodes.update().where(nodes.c.id == node_id).values(rack=rack, labels=labels))


def remove_node(tx: Tx, node_id: NodeId) -> None:
    loss_store.remove(tx, node_id)
    tx.execute(nodes.delete().where(nodes.c.id == node_id))


# --- hosts that are no members any more ------------------------------------------------------------


def add_farewell(tx: Tx, node_id: NodeId, hostname: str) -> None:
    tx.execute(farewells.insert().values(node_id=node_id, hostname=hostname, removed_at=tx.now))


def farewell_of(tx: Tx, node_id: NodeId) -> Farewell | None:
    row = tx.execute(select(farewells).where(farewells.c.node_id == node_id)).one_or_none()
    return None if row is None else Farewell(**row._mapping)


def all_farewells(tx: Tx, limit: int) -> list[Farewell]:
    query = select(farewells).order_by(farewells.c.removed_at, farewells.c.node_id).limit(limit)
    return [Farewell(**row._mapping) for row in tx.execute(query)]


def remove_farewell(tx: Tx, node_id: NodeId) -> None:
    tx.execute(farewells.delete().where(farewells.c.node_id == node_id))


def remove_farewells_before(tx: Tx, moment: datetime) -> None:
    tx.execute(farewells.delete().where(farewells.c.removed_at < moment))
