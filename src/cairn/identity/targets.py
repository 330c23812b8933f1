"""What identity's rules are asked about: the user, group, role, project or domain that a request names,
under oslo.policy's names.

What is not there is left out, so that who may see nothing of it cannot tell whether it is there.
"""

from typing import Any

from cairn.core.ids import DomainId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import tells
from cairn.identity import grants, store
from cairn.identity.records import (
    ADMIN_ROLE,
    DEFAULT_DOMAIN,
    Actor,
    ActorKind,
    Group,
    Project,
    Role,
    User,
)

Fields = dict[str, str | None]

_USER = ("target.user.id", "target.user.domain_id")
_GROUP = ("target.group.id", "target.group.domain_id")
_PROJECT = ("target.project.id", "target.project.domain_id")
_ROLE = ("target.role.id", "target.role.name", "target.role.domain_id")
_DOMAIN = ("target.domain.id", "target.domain.name")
_USER_RULES, _GROUP_RULES = "target.user.rules_the_cloud", "target.group.rules_the_cloud"


def home_domain(call: Call[Any], asked: str | None) -> DomainId:
    """The domain of a new thing: as asked, else that of the caller's scope, else the default one."""
    return DomainId(asked or call.who.scope_domain_id or DEFAULT_DOMAIN)


# What the path names


@tells(*_PROJECT)
def of_project(tx: Tx, call: Call[Any]) -> Fields:
    """Also of a domain as a project: it is in no domain."""
    project_id = call.path["project"]
    if store.DOMAINS.get(tx, project_id) is not None:
        return {"target.project.id": project_id, "target.project.domain_id": None}
    return _project(store.PROJECTS.get(tx, project_id))


@tells(*_DOMAIN)
def of_domain(tx: Tx, call: Call[Any]) -> Fields:
    found = store.DOMAINS.get(tx, call.path["domain"])
    return {} if found is None else {"target.domain.id": found.id, "target.domain.name": found.name}


@tells(*_USER, _USER_RULES)
def of_user(tx: Tx, call: Call[Any]) -> Fields:
    user = store.USERS.get(tx, call.path["user_id"])
    if user is None:
        return {}
    rules = _rules_the_cloud(tx, call, ActorKind.USER, user.id)
    return {**_user(user), "target.user.rules_the_cloud": rules}


@tells(*_GROUP, _GROUP_RULES)
def of_group(tx: Tx, call: Call[Any]) -> Fields:
    group = store.GROUPS.get(tx, call.path["group_id"])
    if group is None:
        return {}
    rules = _rules_the_cloud(tx, call, ActorKind.GROUP, group.id)
    return {**_group(group), "target.group.rules_the_cloud": rules}


@tells(*_GROUP, _GROUP_RULES, *_USER)
def of_member(tx: Tx, call: Call[Any]) -> Fields:
    """Of a user in a group."""
    return {**of_group(tx, call), **_user(store.USERS.get(tx, call.path["user_id"]))}


@tells(*_ROLE)
def of_role(tx: Tx, call: Call[Any]) -> Fields:
    return _role(store.ROLES.get(tx, call.path["role_id"]))


@tells(*_USER, *_GROUP, *_PROJECT, *_DOMAIN, *_ROLE)
def of_grant(tx: Tx, call: Call[Any]) -> Fields:
    """Everything that a grant's path names."""
    path = call.path
    found: Fields = {}
    if "user_id" in path:
        found |= _user(store.USERS.get(tx, path["user_id"]))
    if "group_id" in path:
        found |= _group(store.GROUPS.get(tx, path["group_id"]))
    if "project" in path:
        found |= _project(store.PROJECTS.get(tx, path["project"]))
    if "domain" in path:
        found |= of_domain(tx, call)
    if "role_id" in path:
        found |= of_role(tx, call)
    return found


# What a list or a new thing is about


@tells("target.domain_id", "target.domain.id", "target.group.domain_id")
def of_own_domain(tx: Tx, call: Call[Any]) -> Fields:
    """Of a list that shows a caller who is scoped to a domain nothing but that domain."""
    domain_id = call.who.scope_domain_id
    if domain_id is None:
        return {}
    return {
        "target.domain_id": domain_id,
        "target.domain.id": domain_id,
        "target.group.domain_id": domain_id,
    }


@tells("target.user.domain_id", _USER_RULES)
def of_new_user(tx: Tx, call: Call[Any]) -> Fields:
    domain_id = _asked_domain(call, call.body.user)
    if domain_id is None:
        return {}
    return {"target.user.domain_id": domain_id, "target.user.rules_the_cloud": "False"}


@tells("target.group.domain_id", _GROUP_RULES)
def of_new_group(tx: Tx, call: Call[Any]) -> Fields:
    domain_id = _asked_domain(call, call.body.group)
    if domain_id is None:
        return {}
    return {"target.group.domain_id": domain_id, "target.group.rules_the_cloud": "False"}


@tells("target.project.domain_id")
def of_new_project(tx: Tx, call: Call[Any]) -> Fields:
    return {"target.project.domain_id": domain_of_new_project(tx, call, call.body.project)}


def domain_of_new_project(tx: Tx, call: Call[Any], wish: dict[str, Any]) -> DomainId | None:
    """As asked, else its parent's, else the caller's; None for a project that acts as a domain."""
    parent_id = wish.get("parent_id")
    if wish.get("is_domain"):
        return None
    if not wish.get("domain_id") and isinstance(parent_id, str):
        if (parent := store.PROJECTS.get(tx, parent_id)) is not None:
            return parent.domain_id
        if (domain := store.DOMAINS.get(tx, parent_id)) is not None:
            return domain.id
    return _asked_domain(call, wish)


def _asked_domain(call: Call[Any], wish: dict[str, Any]) -> DomainId | None:
    """None when it is no text: then the body is refused."""
    asked = wish.get("domain_id")
    return home_domain(call, asked) if asked is None or isinstance(asked, str) else None


# One thing


def _user(user: User | None) -> Fields:
    if user is None:
        return {}
    return {"target.user.id": user.id, "target.user.domain_id": user.domain_id}


def _group(group: Group | None) -> Fields:
    if group is None:
        return {}
    return {"target.group.id": group.id, "target.group.domain_id": group.domain_id}


def _project(project: Project | None) -> Fields:
    if project is None:
        return {}
    return {"target.project.id": project.id, "target.project.domain_id": project.domain_id}


def _role(role: Role | None) -> Fields:
    if role is None:
        return {}
    return {
        "target.role.id": role.id,
        "target.role.name": role.name,
        "target.role.domain_id": role.domain_id or None,
    }


def _rules_the_cloud(tx: Tx, call: Call[Any], kind: ActorKind, id_: str) -> str:
    """Read only where it may matter: for callers of a domain who are no administrators."""
    who = call.who
    if who.scope_domain_id is None or ADMIN_ROLE in who.roles:
        return "False"
    return str(grants.rules_the_cloud(tx, Actor(kind=kind, id=id_)))
