"""Policies that identity keeps for other services, and the endpoints that they are for."""

from typing import Any

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, String, Table, Text, and_, select

from cairn.db.columns import Json, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.catalog.store import REGION_CHARACTERS_MAX
from cairn.identity.store import Shelf

policies = Table(
    "identity_policies",
    metadata,
    id_column(primary_key=True),
    Column("type", String(255), nullable=False),
    Column("blob", Text, nullable=False),
    Column("extra", Json(dict[str, Any]), nullable=False),
)

# Each place has at most one policy; "" stands for what a place does not name.
policy_places = Table(
    "identity_policy_places",
    metadata,
    id_column("endpoint_id", primary_key=True),
    id_column("service_id", primary_key=True),
    Column("region_id", String(REGION_CHARACTERS_MAX), primary_key=True),
    id_column("policy_id", nullable=False, index=True),
)


class StoredPolicy(Struct, frozen=True, kw_only=True):
    id: str
    type: str
    blob: str
    extra: dict[str, Any] = {}


class Place(Struct, frozen=True, kw_only=True):
    """What a policy is for: an endpoint, a service, or a service's endpoints in a region and below it."""

    endpoint_id: str = ""
    service_id: str = ""
    region_id: str = ""


POLICIES = Shelf(policies, StoredPolicy)


def policy_at(tx: Tx, place: Place) -> str | None:
    return tx.execute(select(policy_places.c.policy_id).where(_is(place))).scalar()


def put_policy(tx: Tx, place: Place, policy_id: str) -> None:
    """In the stead of the one that was there."""
    done = tx.execute(policy_places.update().where(_is(place)).values(policy_id=policy_id))
    if done.rowcount == 0:
        tx.execute(
            policy_places.insert().values(
                endpoint_id=place.endpoint_id,
                service_id=place.service_id,
                region_id=place.region_id,
                policy_id=policy_id,
            )
        )


def take_policy(tx: Tx, place: Place, policy_id: str) -> None:
    tx.execute(policy_places.delete().where(_is(place), policy_places.c.policy_id == policy_id))


def places_of(tx: Tx, policy_id: str) -> list[Place]:
    columns = policy_places.c
    query = (
        select(columns.endpoint_id, columns.service_id, columns.region_id)
        .where(columns.policy_id == policy_id)
        .order_by(columns.endpoint_id, columns.service_id, columns.region_id)
    )
    return [Place(**row._mapping) for row in tx.execute(query)]


def forget_policy(tx: Tx, policy_id: str) -> None:
    """All that it was for."""
    tx.execute(policy_places.delete().where(policy_places.c.policy_id == policy_id))


def forget_target(
    tx: Tx, *, endpoint_id: str = "", service_id: str = "", region_id: str = ""
) -> None:
    """What policies were for an endpoint, a service or a region that goes."""
    columns = policy_places.c
    if endpoint_id:
        which: ColumnElement[bool] = columns.endpoint_id == endpoint_id
    elif service_id:
        which = columns.service_id == service_id
    else:
        assert region_id, "something goes"
        which = columns.region_id == region_id
    tx.execute(policy_places.delete().where(which))


def _is(place: Place) -> ColumnElement[bool]:
    columns = policy_places.c
    return and_(
        columns.endpoint_id == place.endpoint_id,
        columns.service_id == place.service_id,
        columns.region_id == place.region_id,
    )
