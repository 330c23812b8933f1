"""The catalog's tables. They are small, so they are read whole: the catalog of a token needs all of them."""

from typing import Any

from sqlalchemy import Boolean, Column, ColumnElement, Index, String, Table, Text, select

from cairn.db.columns import Json, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.catalog.records import (
    CatalogEndpoint,
    CatalogService,
    EndpointGroup,
    Region,
    Shown,
    Stored,
)
from cairn.identity.store import Shelf

TOPIC = "identity.catalog"
_Extra = Json(dict[str, Any])
REGION_CHARACTERS_MAX = 255

regions = Table(
    "identity_regions",
    metadata,
    Column("id", String(REGION_CHARACTERS_MAX), primary_key=True),
    Column("description", Text, nullable=False),
    Column("parent_region_id", String(REGION_CHARACTERS_MAX)),
    Column("extra", _Extra, nullable=False),
    Column("is_own", Boolean, nullable=False),
)

services = Table(
    "identity_services",
    metadata,
    id_column(primary_key=True),
    Column("type", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("extra", _Extra, nullable=False),
    Column("is_own", Boolean, nullable=False),
)

endpoints = Table(
    "identity_endpoints",
    metadata,
    id_column(primary_key=True),
    id_column("service_id", nullable=False),
    Column("interface", String(8), nullable=False),
    Column("region_id", String(REGION_CHARACTERS_MAX)),
    Column("url", Text),
    Column("enabled", Boolean, nullable=False),
    Column("extra", _Extra, nullable=False),
    Column("is_own", Boolean, nullable=False),
)

endpoint_groups = Table(
    "identity_endpoint_groups",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False),
    Column("description", Text),
    Column("filters", _Extra, nullable=False),
)

project_endpoints = Table(
    "identity_project_endpoints",
    metadata,
    id_column("project_id", primary_key=True),
    id_column("endpoint_id", primary_key=True),
    Index("ix_identity_project_endpoints_endpoint", "endpoint_id"),
)

project_groups = Table(
    "identity_project_endpoint_groups",
    metadata,
    id_column("project_id", primary_key=True),
    id_column("endpoint_group_id", primary_key=True),
    Index("ix_identity_project_endpoint_groups_group", "endpoint_group_id"),
)

REGIONS = Shelf(regions, Region)
SERVICES = Shelf(services, CatalogService)
ENDPOINTS = Shelf(endpoints, CatalogEndpoint)
GROUPS = Shelf(endpoint_groups, EndpointGroup)

ROWS_MAX = 10_000  # of each table


def everything(tx: Tx) -> Stored:
    return Stored(
        regions=tuple(REGIONS.page(tx, limit=ROWS_MAX)),
        services=tuple(SERVICES.page(tx, limit=ROWS_MAX)),
        endpoints=tuple(ENDPOINTS.page(tx, limit=ROWS_MAX)),
        groups={group.id: group for group in GROUPS.page(tx, limit=ROWS_MAX)},
        shown=_shown(tx),
    )


def entries(tx: Tx) -> Stored:
    """Without what projects are shown."""
    return Stored(
        regions=tuple(REGIONS.page(tx, limit=ROWS_MAX)),
        services=tuple(SERVICES.page(tx, limit=ROWS_MAX)),
        endpoints=tuple(ENDPOINTS.page(tx, limit=ROWS_MAX)),
    )


def _shown(tx: Tx) -> dict[str, Shown]:
    by_endpoint: dict[str, set[str]] = {}
    for row in tx.execute(select(project_endpoints)):
        by_endpoint.setdefault(row.project_id, set()).add(row.endpoint_id)
    by_group: dict[str, set[str]] = {}
    for row in tx.execute(select(project_groups)):
        by_group.setdefault(row.project_id, set()).add(row.endpoint_group_id)
    return {
        project_id: Shown(
            endpoint_ids=frozenset(by_endpoint.get(project_id, ())),
            group_ids=frozenset(by_group.get(project_id, ())),
        )
        for project_id in by_endpoint.keys() | by_group.keys()
    }


# What projects are shown


def shown_to(tx: Tx, project_id: str) -> Shown:
    endpoint_ids = select(project_endpoints.c.endpoint_id).where(
        project_endpoints.c.project_id == project_id
    )
    group_ids = select(project_groups.c.endpoint_group_id).where(
        project_groups.c.project_id == project_id
    )
    return Shown(
        endpoint_ids=frozenset(tx.execute(endpoint_ids).scalars()),
        group_ids=frozenset(tx.execute(group_ids).scalars()),
    )


def projects_shown(tx: Tx, *, endpoint_id: str = "", group_id: str = "") -> list[str]:
    """The projects that are shown this endpoint, or this group."""
    if endpoint_id:
        table, column = project_endpoints, project_endpoints.c.endpoint_id == endpoint_id
    else:
        table, column = project_groups, project_groups.c.endpoint_group_id == group_id
    query = select(table.c.project_id).where(column).order_by(table.c.project_id)
    return list(tx.execute(query).scalars())


def show_endpoint(tx: Tx, project_id: str, endpoint_id: str) -> None:
    tx.execute(project_endpoints.insert().values(project_id=project_id, endpoint_id=endpoint_id))
    tx.wake(TOPIC)


def show_group(tx: Tx, project_id: str, group_id: str) -> None:
    tx.execute(project_groups.insert().values(project_id=project_id, endpoint_group_id=group_id))
    tx.wake(TOPIC)


def hide_endpoint(tx: Tx, project_id: str, endpoint_id: str) -> bool:
    columns = project_endpoints.c
    return _delete(
        tx,
        project_endpoints,
        (columns.project_id == project_id) & (columns.endpoint_id == endpoint_id),
    )


def hide_group(tx: Tx, project_id: str, group_id: str) -> bool:
    columns = project_groups.c
    return _delete(
        tx,
        project_groups,
        (columns.project_id == project_id) & (columns.endpoint_group_id == group_id),
    )


def forget_project(tx: Tx, project_id: str) -> None:
    _delete(tx, project_endpoints, project_endpoints.c.project_id == project_id)
    _delete(tx, project_groups, project_groups.c.project_id == project_id)


def forget_endpoint(tx: Tx, endpoint_id: str) -> None:
    """What projects are shown of it."""
    _delete(tx, project_endpoints, project_endpoints.c.endpoint_id == endpoint_id)


def forget_group(tx: Tx, group_id: str) -> None:
    _delete(tx, project_groups, project_groups.c.endpoint_group_id == group_id)


def _delete(tx: Tx, table: Table, which: ColumnElement[bool]) -> bool:
    is_any = tx.execute(table.delete().where(which)).rowcount > 0
    if is_any:
        tx.wake(TOPIC)
    return is_any
