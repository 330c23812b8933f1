"""The first rows: a domain, the roles with their order, and an admin who can make everything else."""

import itertools
from collections.abc import Sequence

from msgspec import Struct

from cairn.core.ids import ProjectId, RoleId, UserId
from cairn.db.engine import Tx
from cairn.identity import grants, people, places, store
from cairn.identity.records import (
    ADMIN_ROLE,
    DEFAULT_DOMAIN,
    SERVICE_ROLE,
    SYSTEM,
    Actor,
    ActorKind,
    Assignment,
    Domain,
    Project,
    Role,
    Scope,
    ScopeKind,
    User,
)

ADMIN = "admin"
ROLE_ORDER = (ADMIN_ROLE, "manager", "member", "reader")  # each implies the next


class Bootstrapped(Struct, frozen=True, kw_only=True):
    project_id: ProjectId
    user_id: UserId
    is_new: bool  # the admin was made just now, with the given password


def bootstrap(tx: Tx, admin_password_hash: str, *, reset_password: bool = False) -> Bootstrapped:
    """Make what is missing of the first rows. Repeatable.

    An admin who is there keeps the password unless `reset_password`, which voids the admin's tokens, and
    is enabled again: this is also the way back in.
    """
    if store.DOMAINS.get(tx, DEFAULT_DOMAIN) is None:
        store.DOMAINS.add(
            tx, Domain(id=DEFAULT_DOMAIN, name="Default", description="The default domain")
        )
    roles = [_role(tx, name) for name in ROLE_ORDER]
    _role(tx, SERVICE_ROLE)
    for prior, implied in itertools.pairwise(roles):
        grants.imply(tx, prior.id, implied.id)
    project = _admin_project(tx)
    user, is_new = _admin_user(tx, project, admin_password_hash)
    if reset_password and not is_new:
        new = people.NewPassword(hash=admin_password_hash)
        people.update_user(tx, user.id, {"enabled": True}, new)
    _give(tx, user, roles[0], (Scope(kind=ScopeKind.PROJECT, id=project.id), SYSTEM))
    return Bootstrapped(project_id=project.id, user_id=user.id, is_new=is_new)


def _role(tx: Tx, name: str) -> Role:
    found = store.ROLES.find(tx, store.roles.c.name == name, store.roles.c.domain_id == "")
    return found or grants.create_role(
        tx, Role(id=RoleId(tx.new_hex_id()), name=name, is_immutable=True)
    )


def _admin_project(tx: Tx) -> Project:
    columns = store.projects.c
    found = store.PROJECTS.find(tx, columns.domain_id == DEFAULT_DOMAIN, columns.name == ADMIN)
    return found or places.create_project(
        tx,
        Project(
            id=ProjectId(tx.new_hex_id()),
            name=ADMIN,
            domain_id=DEFAULT_DOMAIN,
            parent_id=DEFAULT_DOMAIN,
            description="The cloud's operators",
        ),
    )


def _admin_user(tx: Tx, project: Project, password_hash: str) -> tuple[User, bool]:
    columns = store.users.c
    found = store.USERS.find(tx, columns.domain_id == DEFAULT_DOMAIN, columns.name == ADMIN)
    if found is not None:
        return found, False
    new = User(
        id=UserId(tx.new_hex_id()),
        name=ADMIN,
        domain_id=DEFAULT_DOMAIN,
        default_project_id=project.id,
    )
    return people.create_user(tx, new, password_hash), True


def _give(tx: Tx, user: User, role: Role, scopes: Sequence[Scope]) -> None:
    actor = Actor(kind=ActorKind.USER, id=user.id)
    for scope in scopes:
        grants.grant(tx, Assignment(actor=actor, scope=scope, role_id=role.id))
