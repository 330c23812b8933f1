"""Projects as trees, and their tags. A domain has tags too: Keystone calls it a project that acts as one."""

from collections.abc import Collection, Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, String, Table, and_, bindparam, or_, select

from cairn.core.ids import DomainId, ProjectId
from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.identity.records import Project
from cairn.identity.store import PROJECTS, domains, projects, users

project_tags = Table(
    "identity_project_tags",
    metadata,
    id_column("project_id", primary_key=True),
    Column("tag", String(255), primary_key=True),
)


# Trees


class Node(Struct, frozen=True):
    """A project's place in its tree."""

    id: ProjectId
    parent_id: str  # a project's id, or the domain's
    domain_id: DomainId


def ancestors(tx: Tx, project_id: str) -> list[Project]:
    """The projects above, the nearest first. The domain is not among them."""
    above = [r[0] for r in tx.run(_LINE, {"id": project_id}) if r[0] != project_id]
    found = PROJECTS.many(tx, above)
    line, at = [], PROJECTS.get(tx, project_id)
    while at is not None and (at := found.get(at.parent_id)) is not None:
        line.append(at)
    return line


def line_of(tx: Tx, project_id: str) -> list[Node]:
    """The project and those above it, in no order."""
    return [Node(*row) for row in tx.run(_LINE, {"id": project_id})]


def _upwards() -> Any:
    columns = (projects.c.id, projects.c.parent_id, projects.c.domain_id)
    line = select(*columns).where(projects.c.id == bindparam("id")).cte("line", recursive=True)
    line = line.union(select(*columns).join(line, projects.c.id == line.c.parent_id))
    return select(line.c.id, line.c.parent_id, line.c.domain_id)


_LINE = Prepared(_upwards())


def below(tx: Tx, root_id: str) -> list[Project]:
    """All projects under a project or a domain, at any depth, by id."""
    tree = select(projects.c.id).where(projects.c.parent_id == root_id).cte("tree", recursive=True)
    tree = tree.union(select(projects.c.id).join(tree, projects.c.parent_id == tree.c.id))
    query = select(*PROJECTS.columns).where(projects.c.id.in_(select(tree.c.id)))
    return [Project(**row._mapping) for row in tx.execute(query.order_by(projects.c.id))]


def nodes_of(tx: Tx, domain_ids: Collection[str]) -> list[Node]:
    """Every project of these domains as a node."""
    query = select(projects.c.id, projects.c.parent_id, projects.c.domain_id)
    rows: Any = tx.execute(query.where(projects.c.domain_id.in_(domain_ids))).all()
    return [Node(row[0], row[1], row[2]) for row in rows]


def is_enabled_below(tx: Tx, root_id: str) -> bool:
    """Whether a project under this one is enabled."""
    return any(project.enabled for project in below(tx, root_id))


def forget_default_project(tx: Tx, project_id: ProjectId) -> None:
    tx.execute(
        users.update()
        .where(users.c.default_project_id == project_id)
        .values(default_project_id=None)
    )


# Tags


def tags_of(tx: Tx, ids: Collection[str]) -> dict[str, list[str]]:
    if not ids:
        return {}
    query = (
        select(project_tags.c.project_id, project_tags.c.tag)
        .where(project_tags.c.project_id.in_(set(ids)))
        .order_by(project_tags.c.tag)
    )
    found: dict[str, list[str]] = {}
    for row in tx.execute(query):
        found.setdefault(row.project_id, []).append(row.tag)
    return found


def replace_tags(tx: Tx, id_: str, tags: Iterable[str]) -> None:
    tx.execute(project_tags.delete().where(project_tags.c.project_id == id_))
    rows = [{"project_id": id_, "tag": tag} for tag in tags]
    if rows:
        tx.execute(project_tags.insert(), rows)


def is_tagged(
    table: Table, queries: Collection[tuple[str, list[str]]]
) -> list[ColumnElement[bool]]:
    """Conditions on projects or domains, from ("tags", ["a", "b"]) and the like (api-ref, project tags)."""
    assert table in (projects, domains), "nothing else has tags"

    def has(tags: list[str]) -> ColumnElement[bool]:
        tagged = select(project_tags.c.project_id).where(project_tags.c.tag.in_(tags))
        return table.c.id.in_(tagged)

    conditions = []
    for kind, tags in queries:
        has_all = and_(*(has([tag]) for tag in tags))
        has_one = or_(*(has([tag]) for tag in tags))
        conditions.append(
            {"tags": has_all, "tags-any": has_one, "not-tags": ~has_all, "not-tags-any": ~has_one}[
                kind
            ]
        )
    return conditions
