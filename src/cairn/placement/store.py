"""The tables of claims, and of their sum by host: the row that every claim must pass.

The sum is stored because the guard needs one row to stand on: `UPDATE … WHERE taken + need <= capacity`
is what makes over-commit impossible, however many placers run.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Index, Integer, Table, bindparam, or_, select

from cairn.core.ids import NodeId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared, deleting, inserting
from cairn.placement.records import Amounts, Claim

claims = Table(
    "placement_claims",
    metadata,
    id_column("consumer_id", primary_key=True),
    id_column("node_id", nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("disk_gib", Integer, nullable=False),
    Column("made_at", Time, nullable=False),
    Index("ix_placement_claims_node", "node_id"),
)

sums = Table(
    "placement_sums",
    metadata,
    id_column("node_id", primary_key=True),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("disk_gib", Integer, nullable=False),
)


_AMOUNTS = ("vcpus", "memory_mib", "disk_gib")
_CLAIM_OF = Prepared(
    select(claims.c.consumer_id, claims.c.node_id, *(claims.c[name] for name in _AMOUNTS)).where(
        claims.c.consumer_id == bindparam("consumer")
    )
)
_SUMS = Prepared(select(sums.c.node_id, *(sums.c[name] for name in _AMOUNTS)))
_ADD_WITHIN = Prepared(
    sums.update()
    .where(
        sums.c.node_id == bindparam("node"),
        *(
            # What is not asked for cannot be lacking, even where less was promised since.
            or_(
                bindparam(f"need_{name}", type_=Integer) == 0,
                sums.c[name] + bindparam(f"need_{name}", type_=Integer)
                <= bindparam(f"most_{name}", type_=Integer),
            )
            for name in _AMOUNTS
        ),
    )
    .values({name: sums.c[name] + bindparam(f"need_{name}", type_=Integer) for name in _AMOUNTS})
)
_HAS_SUM = Prepared(select(sums.c.node_id).where(sums.c.node_id == bindparam("node")))
_GIVE_BACK = Prepared(
    sums.update()
    .where(sums.c.node_id == bindparam("node"))
    .values({name: sums.c[name] - bindparam(f"need_{name}", type_=Integer) for name in _AMOUNTS})
)


def claim_of(tx: Tx, consumer_id: str) -> Claim | None:
    row = tx.run(_CLAIM_OF, {"consumer": consumer_id}).first()
    if row is None:
        return None
    return Claim(consumer_id=row[0], node_id=row[1], amounts=_of(row[2:]))


def sums_by_node(tx: Tx) -> dict[NodeId, Amounts]:
    """Of every host that ever had a claim."""
    return {NodeId(row[0]): _of(row[1:]) for row in tx.run(_SUMS)}


def rows(tx: Tx) -> list[tuple[Any, ...]]:
    """(host, processors, MiB, GiB) taken of every host that ever had a claim."""
    return tx.run(_SUMS).rows


def _of(row: Sequence[int]) -> Amounts:
    vcpus, memory_mib, disk_gib = row
    return Amounts(vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)


def claims_on(tx: Tx, node_id: NodeId) -> list[Claim]:
    query = select(claims).where(claims.c.node_id == node_id).order_by(claims.c.consumer_id)
    return [
        Claim(consumer_id=row.consumer_id, node_id=row.node_id, amounts=_amounts(row))
        for row in tx.execute(query)
    ]


def take(tx: Tx, node_id: NodeId, need: Amounts, capacity: Amounts) -> bool:
    """Add to the host's sum unless one of the capacities would be passed."""
    if _add_within(tx, node_id, need, capacity):
        return True
    if tx.run(_HAS_SUM, {"node": node_id}).first() is not None:
        return False
    first = {"node_id": node_id, "vcpus": 0, "memory_mib": 0, "disk_gib": 0}
    tx.run(inserting(sums, tuple(first)), first)
    return _add_within(tx, node_id, need, capacity)


def _add_within(tx: Tx, node_id: NodeId, need: Amounts, capacity: Amounts) -> bool:
    values: dict[str, object] = {"node": node_id}
    for name in _AMOUNTS:
        values[f"need_{name}"] = getattr(need, name)
        values[f"most_{name}"] = getattr(capacity, name)
    return tx.run(_ADD_WITHIN, values).rowcount == 1


def give_back(tx: Tx, claim: Claim) -> None:
    values: dict[str, object] = {"node": claim.node_id}
    values |= {f"need_{name}": getattr(claim.amounts, name) for name in _AMOUNTS}
    tx.run(_GIVE_BACK, values)


def add_claim(tx: Tx, claim: Claim) -> None:
    values = {
        "consumer_id": claim.consumer_id,
        "node_id": claim.node_id,
        "vcpus": claim.amounts.vcpus,
        "memory_mib": claim.amounts.memory_mib,
        "disk_gib": claim.amounts.disk_gib,
        "made_at": tx.now,
    }
    tx.run(inserting(claims, tuple(values)), values)


def remove_claim(tx: Tx, consumer_id: str) -> bool:
    """False when somebody else removed it first."""
    return tx.run(deleting(claims, ("consumer_id",)), {"is_consumer_id": consumer_id}).rowcount == 1


def forget_node(tx: Tx, node_id: NodeId) -> None:
    tx.execute(claims.delete().where(claims.c.node_id == node_id))
    tx.execute(sums.delete().where(sums.c.node_id == node_id))


def _amounts(row: object) -> Amounts:
    return Amounts(
        vcpus=row.vcpus,  # type: ignore[attr-defined]
        memory_mib=row.memory_mib,  # type: ignore[attr-defined]
        disk_gib=row.disk_gib,  # type: ignore[attr-defined]
    )


def claimants(tx: Tx) -> list[str]:
    """Everyone who holds room, sorted."""
    return list(tx.execute(select(claims.c.consumer_id).order_by(claims.c.consumer_id)).scalars())
