"""Who owns what is made, who may change what is seen, and how much a project may have."""

from typing import Protocol

from msgspec import UnsetType
from sqlalchemy import Table, func, select

from cairn.core.caller import Caller
from cairn.core.errors import Denied, Invalid, OverQuota
from cairn.core.ids import ProjectId
from cairn.db.engine import Tx
from cairn.identity import service as identity
from cairn.network.records import LIMITS
from cairn.network.store import resources
from cairn.network.store.ports import counted_ports
from cairn.network.store.tables import (
    floating_ips,
    groups,
    networks,
    ports,
    routers,
    rules,
    subnet_pools,
    subnets,
)

QUOTAS: dict[str, Table] = {
    "network": networks,
    "subnet": subnets,
    "subnetpool": subnet_pools,
    "port": ports,
    "router": routers,
    "floatingip": floating_ips,
    "security_group": groups,
    "security_group_rule": rules,
}
"""What is counted against the limit of each name (records.LIMITS)."""


class Owned(Protocol):
    @property
    def project_id(self) -> ProjectId: ...


def owner_of(who: Caller, named: str | UnsetType) -> ProjectId:
    """The project that a new thing belongs to; only an admin may name another's."""
    if isinstance(named, UnsetType) or not named:
        if who.project_id is None:
            raise Invalid("InvalidInput: The token has no project; name one in 'project_id'.")
        return who.project_id
    if named != who.project_id and not who.is_admin:
        raise Denied("PolicyNotAuthorized: Only an admin may create for another project.")
    return ProjectId(named)


def require_owner(who: Caller, thing: Owned, what: str) -> None:
    """Denied when a thing is seen (it is shared) but belongs to others."""
    if who.reach is not None and thing.project_id != who.reach:
        raise Denied(f"PolicyNotAuthorized: The {what} belongs to another project.")


def used(tx: Tx, name: str, project_id: ProjectId) -> int:
    if name == "port":
        query = select(func.count()).select_from(ports).where(counted_ports(project_id))
        return int(tx.execute(query).scalar_one())
    return resources.count(tx, QUOTAS[name], project_id)


def limit(tx: Tx, name: str, project_id: ProjectId) -> int:
    """-1 is no limit."""
    return identity.limit(tx, project_id, LIMITS, name)


def admit(tx: Tx, name: str, project_id: ProjectId, count: int = 1) -> None:
    """Raises OverQuota unless the project may have `count` more. Part of the transaction that adds
    them, so that two requests cannot both take the last."""
    allowed = limit(tx, name, project_id)
    if allowed >= 0 and (have := used(tx, name, project_id)) + count > allowed:
        raise OverQuota(
            f"OverQuota: Quota exceeded for resources: ['{name}']: {have} of {allowed} are used and "
            f"{count} more wanted."
        )
