"""The table of control processes. Only on PostgreSQL has it rows: SQLite has one process.

Times are the database's own: the machines' clocks may differ.
"""

from msgspec import Struct
from sqlalchemy import BigInteger, Column, String, Table, cast, func, or_, select

from cairn.core.ids import NodeId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.fleet.records import NodeState
from cairn.fleet.store import nodes

control_processes = Table(
    "control_processes",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False),
    Column("address", String(255), nullable=False),
    Column("started_at", Time, nullable=False),
    Column("seen_at", Time, nullable=False),
    Column("version", String(64), nullable=False, server_default=""),
)

_NOW = cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)


class Control(Struct, frozen=True, kw_only=True):
    """One control process."""

    id: str
    name: str  # of its machine
    address: str  # host:port on which its peers reach its node port
    silent_s: float = 0.0  # since it was last heard of
    version: str = ""  # of Cairn, that it runs


def add(tx: Tx, me: Control) -> None:
    tx.execute(
        control_processes.insert().values(
            id=me.id,
            name=me.name,
            address=me.address,
            started_at=tx.now,
            seen_at=_NOW,
            version=me.version,
        )
    )


def renew(tx: Tx, control_id: str) -> bool:
    """Say that the process lives. False: the others took it for dead."""
    c = control_processes.c
    done = tx.execute(control_processes.update().where(c.id == control_id).values(seen_at=_NOW))
    return done.rowcount == 1


def remove(tx: Tx, control_id: str) -> None:
    tx.execute(control_processes.delete().where(control_processes.c.id == control_id))


def all_controls(tx: Tx) -> list[Control]:
    c = control_processes.c
    silent_s = ((_NOW - cast(c.seen_at, BigInteger)) / 1_000_000.0).label("silent_s")
    query = select(c.id, c.name, c.address, c.version, silent_s).order_by(c.started_at, c.id)
    return [
        Control(
            id=row.id,
            name=row.name,
            address=row.address,
            version=row.version,
            silent_s=float(row.silent_s),
        )
        for row in tx.execute(query)
    ]


def controller_of(tx: Tx, node_id: NodeId) -> Control | None:
    """The process that the host's agent was connected to last; None if it lives no more."""
    c = control_processes.c
    query = (
        select(c.id, c.name, c.address)
        .join(nodes, nodes.c.control_id == c.id)
        .where(nodes.c.id == node_id)
    )
    row = tx.execute(query).one_or_none()
    return None if row is None else Control(id=row.id, name=row.name, address=row.address)


def adopt(tx: Tx, mine: str, limit: int) -> list[NodeId]:
    """Hosts that are up and of whom no living process takes care become this process's."""
    nobodys = or_(
        nodes.c.control_id.is_(None),
        nodes.c.control_id.not_in(select(control_processes.c.id)),
    )
    wanted = (
        select(nodes.c.id)
        .where(nodes.c.state == NodeState.UP, nobodys)
        .order_by(nodes.c.id)
        .limit(limit)
    )
    found = list(tx.execute(wanted).scalars())
    if found:
        tx.execute(nodes.update().where(nodes.c.id.in_(found), nobodys).values(control_id=mine))
    return found
