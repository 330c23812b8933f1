"""Security groups and their rules."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, or_, select

from cairn.core.errors import NotFound
from cairn.core.ids import PortId, ProjectId, SecurityGroupId
from cairn.db.engine import Tx
from cairn.network.records import Group, Rule, Search
from cairn.network.store.listing import Listing, boolean, find, integer, listing, text
from cairn.network.store.resources import chunks, tags_of
from cairn.network.store.tables import groups, networks, port_groups, ports, rules

GROUPS: Listing = listing(
    "SecurityGroup",
    groups,
    {"stateful": boolean(groups.c.is_stateful)},
    stateful=groups.c.is_stateful,
)

RULES: Listing = listing(
    "SecurityGroupRule",
    rules,
    {
        "security_group_id": text(rules.c.group_id),
        "direction": text(rules.c.direction),
        "ethertype": text(rules.c.ethertype),
        "protocol": text(rules.c.protocol),
        "port_range_min": integer(rules.c.port_min),
        "port_range_max": integer(rules.c.port_max),
        "remote_ip_prefix": text(rules.c.remote_cidr),
        "remote_group_id": text(rules.c.remote_group_id),
    },
    security_group_id=rules.c.group_id,
    direction=rules.c.direction,
    ethertype=rules.c.ethertype,
)

_RULE = [c for c in rules.c if c.name != "fingerprint"]


def find_groups(tx: Tx, reach: ProjectId | None, search: Search) -> list[Group]:
    visible = None if reach is None else groups.c.project_id == reach
    return _groups(tx, find(tx, GROUPS, search, visible))


def group(tx: Tx, reach: ProjectId | None, group_id: str) -> Group:
    query = select(groups).where(groups.c.id == group_id)
    if reach is not None:
        query = query.where(groups.c.project_id == reach)
    found = _groups(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"SecurityGroupNotFound: Security group {group_id[:64]} does not exist")
    return found[0]


def groups_by_id(tx: Tx, ids: Iterable[str]) -> dict[SecurityGroupId, Group]:
    rows = [
        row
        for some in chunks(ids)
        for row in tx.execute(select(groups).where(groups.c.id.in_(some)).order_by(groups.c.id))
    ]
    return {g.id: g for g in _groups(tx, rows)}


def groups_named(tx: Tx, project_id: ProjectId, name: str) -> list[SecurityGroupId]:
    query = select(groups.c.id).where(groups.c.project_id == project_id, groups.c.name == name)
    return [SecurityGroupId(i) for i in tx.execute(query.order_by(groups.c.id)).scalars()]


def default_group_id(tx: Tx, project_id: ProjectId) -> SecurityGroupId | None:
    query = select(groups.c.id).where(groups.c.project_id == project_id, groups.c.is_default)
    found = tx.execute(query).scalar_one_or_none()
    return None if found is None else SecurityGroupId(found)


def ports_in_group(tx: Tx, group_id: SecurityGroupId, limit: int) -> list[PortId]:
    query = select(port_groups.c.port_id).where(port_groups.c.group_id == group_id)
    return [
        PortId(i) for i in tx.execute(query.order_by(port_groups.c.port_id).limit(limit)).scalars()
    ]


def zones_of_group(tx: Tx, group_id: SecurityGroupId) -> list[str]:
    """Zones with ports whose filters depend on the group's rules."""
    query = (
        select(networks.c.zone)
        .join(ports, ports.c.network_id == networks.c.id)
        .join(port_groups, port_groups.c.port_id == ports.c.id)
        .where(port_groups.c.group_id == group_id)
        .distinct()
        .order_by(networks.c.zone)
    )
    return list(tx.execute(query).scalars())


def zones_naming_group(tx: Tx, group_id: SecurityGroupId) -> list[str]:
    """Zones with ports whose rules name the group as their remote."""
    naming = select(rules.c.group_id).where(rules.c.remote_group_id == group_id)
    query = (
        select(networks.c.zone)
        .join(ports, ports.c.network_id == networks.c.id)
        .join(port_groups, port_groups.c.port_id == ports.c.id)
        .where(port_groups.c.group_id.in_(naming))
        .distinct()
    )
    return sorted(tx.execute(query).scalars())


def find_rules(tx: Tx, reach: ProjectId | None, search: Search) -> list[Rule]:
    own = select(groups.c.id).where(groups.c.project_id == reach)
    visible = None if reach is None else or_(rules.c.project_id == reach, rules.c.group_id.in_(own))
    return [_rule(row) for row in find(tx, RULES, search, visible)]


def rule(tx: Tx, reach: ProjectId | None, rule_id: str) -> Rule:
    query = select(*_RULE).where(rules.c.id == rule_id)
    if reach is not None:
        own = select(groups.c.id).where(groups.c.project_id == reach)
        query = query.where(or_(rules.c.project_id == reach, rules.c.group_id.in_(own)))
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"SecurityGroupRuleNotFound: Security group rule {rule_id[:64]} does not exist"
        )
    return _rule(row)


def same_rule(tx: Tx, group_id: SecurityGroupId, fingerprint: str) -> str | None:
    query = select(rules.c.id).where(
        rules.c.group_id == group_id, rules.c.fingerprint == fingerprint
    )
    return tx.execute(query).scalar_one_or_none()


def remove_rules_naming(tx: Tx, group_id: SecurityGroupId) -> None:
    tx.execute(delete(rules).where(rules.c.remote_group_id == group_id))


def _rule(row: Any) -> Rule:
    return Rule(**{k: v for k, v in row._mapping.items() if k != "fingerprint"})


def _groups(tx: Tx, rows: Sequence[Any]) -> list[Group]:
    ids = [row.id for row in rows]
    labels = tags_of(tx, ids)
    held: dict[str, list[Rule]] = {}
    for some in chunks(ids):
        for row in tx.execute(
            select(*_RULE).where(rules.c.group_id.in_(some)).order_by(rules.c.made_at, rules.c.id)
        ):
            held.setdefault(row.group_id, []).append(_rule(row))
    return [
        Group(**row._mapping, rules=tuple(held.get(row.id, ())), tags=labels.get(row.id, ()))
        for row in rows
    ]
