"""The tables of what was asked of servers, and of one-time keys to their screens.

Actions outlive their server for a while, so that a user can read why it went.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, Index, Integer, String, Table, Text, bindparam, or_, select

from cairn.compute.records import Action
from cairn.core.ids import NodeId, ProjectId, ServerId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared, inserting

actions = Table(
    "server_actions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    id_column("server_id", nullable=False),
    id_column("project_id", nullable=False),
    id_column("user_id", nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("started_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("finished_at", Time),
    Column("result", String(16)),
    Column("message", Text),
    Column("details", Text),
    id_column("node_id"),
    Index("ix_server_actions_server", "server_id", "number"),
    Index("ix_server_actions_updated", "updated_at"),
)

screen_keys = Table(
    "server_screen_keys",
    metadata,
    Column("digest", String(64), primary_key=True),
    id_column("server_id", nullable=False),
    id_column("node_id", nullable=False),
    Column("expires_at", Time, nullable=False),
    Index("ix_server_screen_keys_expires", "expires_at"),
)


def add_action(
    tx: Tx,
    *,
    server_id: ServerId,
    project_id: ProjectId,
    user_id: str,
    request_id: str,
    action: str,
    event: str,
    node_id: NodeId | None,
    **values: Any,
) -> None:
    values |= {
        "server_id": server_id,
        "project_id": project_id,
        "user_id": user_id,
        "request_id": request_id,
        "action": action,
        "event": event,
        "node_id": node_id,
        "started_at": tx.now,
        "updated_at": tx.now,
    }
    tx.run(inserting(actions, tuple(values)), values)


def finish_actions(
    tx: Tx,
    server_id: ServerId,
    result: str,
    *,
    details: str | None = None,
    names: tuple[str, ...] = (),
) -> None:
    """End what is open on a server, all of it or only actions of these names."""
    values = {
        "server": server_id,
        "at": tx.now,
        "with_result": result,
        "with_message": "Error" if result == "Error" else None,
        "with_details": details,
    }
    tx.run(_finishing(names), values)


@cache
def _finishing(names: tuple[str, ...]) -> Prepared:
    where = [actions.c.server_id == bindparam("server"), actions.c.finished_at.is_(None)]
    if names:
        where.append(or_(*(actions.c.action == name for name in names)))
    return Prepared(
        actions.update()
        .where(*where)
        .values(
            finished_at=bindparam("at", type_=actions.c.finished_at.type),
            updated_at=bindparam("at", type_=actions.c.finished_at.type),
            result=bindparam("with_result"),
            message=bindparam("with_message"),
            details=bindparam("with_details"),
        )
    )


_SET_NODE = Prepared(
    actions.update()
    .where(actions.c.server_id == bindparam("server"), actions.c.finished_at.is_(None))
    .values(node_id=bindparam("node"))
)


def set_nodes(tx: Tx, places: Iterable[tuple[ServerId, NodeId]]) -> None:
    """What is under way on these servers goes on at these hosts."""
    tx.run_many(_SET_NODE, [{"server": server, "node": node} for server, node in places])


def actions_of(
    tx: Tx, reach: ProjectId | None, server_id: ServerId, *, limit: int = 1000
) -> list[Action]:
    """The newest first."""
    query = select(actions).where(actions.c.server_id == server_id)
    if reach is not None:
        query = query.where(actions.c.project_id == reach)
    rows = tx.execute(query.order_by(actions.c.number.desc()).limit(limit))
    return [Action(**row._mapping) for row in rows]


def forget_actions(tx: Tx, before: datetime, gone_than: Any) -> int:
    """Remove what happened before `before` to servers that the query `gone_than` does not list."""
    done = tx.execute(
        actions.delete().where(actions.c.updated_at < before, actions.c.server_id.not_in(gone_than))
    )
    return int(done.rowcount)


def add_screen_key(
    tx: Tx, digest: str, server_id: ServerId, node_id: NodeId, expires_at: datetime
) -> None:
    tx.execute(
        screen_keys.insert().values(
            digest=digest, server_id=server_id, node_id=node_id, expires_at=expires_at
        )
    )


def take_screen_key(tx: Tx, digest: str) -> tuple[NodeId, ServerId] | None:
    """Use a key up; None when there is none, or it is too old."""
    row = tx.execute(
        screen_keys.delete()
        .where(screen_keys.c.digest == digest)
        .returning(screen_keys.c.node_id, screen_keys.c.server_id, screen_keys.c.expires_at)
    ).one_or_none()
    if row is None or row.expires_at < tx.now:
        return None
    return row.node_id, row.server_id


def forget_screen_keys(tx: Tx) -> int:
    return int(tx.execute(screen_keys.delete().where(screen_keys.c.expires_at < tx.now)).rowcount)
