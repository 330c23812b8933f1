"""What goes with what: everything that hangs on a user, group, project or domain ends with it.

Whoever gives identity another table that names one of them adds a line here.
"""

from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import quotas, store
from cairn.identity.records import Actor, ActorKind, GroupId, Scope, ScopeKind

PARTS_MAX = 10_000  # projects, users or groups that go with their domain in one transaction


def user(tx: Tx, user_id: UserId) -> None:
    store.forget_actor(tx, Actor(kind=ActorKind.USER, id=user_id))
    store.forget_memberships(tx, user_id)
    store.USERS.remove(tx, user_id)


def group(tx: Tx, group_id: GroupId) -> None:
    store.forget_actor(tx, Actor(kind=ActorKind.GROUP, id=group_id))
    store.forget_group_members(tx, group_id)
    store.GROUPS.remove(tx, group_id)


def project(tx: Tx, project_id: ProjectId) -> None:
    store.forget_scope(tx, Scope(kind=ScopeKind.PROJECT, id=project_id))
    store.forget_default_project(tx, project_id)
    store.replace_tags(tx, project_id, ())
    quotas.reset_limits(tx, project_id)
    store.PROJECTS.remove(tx, project_id)


def domain(tx: Tx, domain_id: DomainId) -> None:
    """With its projects, users, groups and roles."""
    for its_project in _all(tx, store.PROJECTS, domain_id):
        project(tx, its_project.id)
    for its_user in _all(tx, store.USERS, domain_id):
        user(tx, its_user.id)
    for its_group in _all(tx, store.GROUPS, domain_id):
        group(tx, its_group.id)
    for role in _all(tx, store.ROLES, domain_id):
        store.forget_role(tx, role.id)
        store.ROLES.remove(tx, role.id)
    store.forget_scope(tx, Scope(kind=ScopeKind.DOMAIN, id=domain_id))
    store.DOMAINS.remove(tx, domain_id)


def _all(tx: Tx, shelf: store.Shelf[store.R], domain_id: DomainId) -> list[store.R]:
    return shelf.page(tx, [shelf.table.c.domain_id == domain_id], limit=PARTS_MAX)
