"""The tables of claims, and of their sum by host: the row that every claim must pass.

The sum is stored because the guard needs one row to stand on: `UPDATE … WHERE taken + need <= capacity`
is what makes over-commit impossible, however many placers run.
"""

from sqlalchemy import Column, Index, Integer, Table, select

from cairn.core.ids import NodeId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
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


def claim_of(tx: Tx, consumer_id: str) -> Claim | None:
    row = tx.execute(select(claims).where(claims.c.consumer_id == consumer_id)).one_or_none()
    if row is None:
        return None
    return Claim(consumer_id=row.consumer_id, node_id=row.node_id, amounts=_amounts(row))


def sums_by_node(tx: Tx) -> dict[NodeId, Amounts]:
    """Of every host that ever had a claim."""
    return {NodeId(row.node_id): _amounts(row) for row in tx.execute(select(sums))}


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
    if tx.execute(select(sums.c.node_id).where(sums.c.node_id == node_id)).first() is not None:
        return False
    tx.execute(sums.insert().values(node_id=node_id, vcpus=0, memory_mib=0, disk_gib=0))
    return _add_within(tx, node_id, need, capacity)


def _add_within(tx: Tx, node_id: NodeId, need: Amounts, capacity: Amounts) -> bool:
    done = tx.execute(
        sums.update()
        .where(
            sums.c.node_id == node_id,
            *(
                sums.c[name] + getattr(need, name) <= getattr(capacity, name)
                for name in ("vcpus", "memory_mib", "disk_gib")
                # What is not asked for cannot be lacking, even where less was promised since.
                if getattr(need, name) > 0
            ),
        )
        .values(
            vcpus=sums.c.vcpus + need.vcpus,
            memory_mib=sums.c.memory_mib + need.memory_mib,
            disk_gib=sums.c.disk_gib + need.disk_gib,
        )
    )
    return done.rowcount == 1


def give_back(tx: Tx, claim: Claim) -> None:
    taken = claim.amounts
    tx.execute(
        sums.update()
        .where(sums.c.node_id == claim.node_id)
        .values(
            vcpus=sums.c.vcpus - taken.vcpus,
            memory_mib=sums.c.memory_mib - taken.memory_mib,
            disk_gib=sums.c.disk_gib - taken.disk_gib,
        )
    )


def add_claim(tx: Tx, claim: Claim) -> None:
    tx.execute(
        claims.insert().values(
            consumer_id=claim.consumer_id,
            node_id=claim.node_id,
            vcpus=claim.amounts.vcpus,
            memory_mib=claim.amounts.memory_mib,
            disk_gib=claim.amounts.disk_gib,
            made_at=tx.now,
        )
    )


def remove_claim(tx: Tx, consumer_id: str) -> bool:
    """False when somebody else removed it first."""
    return tx.execute(claims.delete().where(claims.c.consumer_id == consumer_id)).rowcount == 1


def _amounts(row: object) -> Amounts:
    return Amounts(
        vcpus=row.vcpus,  # type: ignore[attr-defined]
        memory_mib=row.memory_mib,  # type: ignore[attr-defined]
        disk_gib=row.disk_gib,  # type: ignore[attr-defined]
    )


def claimants(tx: Tx) -> list[str]:
    """Everyone who holds room, sorted."""
    return list(tx.execute(select(claims.c.consumer_id).order_by(claims.c.consumer_id)).scalars())
