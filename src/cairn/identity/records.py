"""What identity knows: domains, projects, users, groups, roles, and who has which role where.

A password's hash is in no record: it never leaves `store` but through the one function that signs in.
A user may have attributes of any name (Keystone's "extra"); nobody here gives them a meaning.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from msgspec import Struct

from cairn.core.ids import DomainId, ProjectId, RoleId, UserId

GroupId = NewType("GroupId", str)

DEFAULT_DOMAIN = DomainId("default")
ADMIN_ROLE = "admin"
SERVICE_ROLE = "service"


class Domain(Struct, frozen=True, kw_only=True):
    id: DomainId
    name: str
    description: str = ""
    enabled: bool = True
    is_immutable: bool = False
    extra: dict[str, Any] = {}


class Project(Struct, frozen=True, kw_only=True):
    id: ProjectId
    name: str
    domain_id: DomainId
    parent_id: str  # a project's id, or the domain's
    description: str = ""
    enabled: bool = True
    is_immutable: bool = False
    extra: dict[str, Any] = {}


class User(Struct, frozen=True, kw_only=True):
    id: UserId
    name: str
    domain_id: DomainId
    enabled: bool = True
    default_project_id: ProjectId | None = None
    description: str | None = None
    email: str | None = None
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    password_expires_at: datetime | None = None


class Group(Struct, frozen=True, kw_only=True):
    id: GroupId
    name: str
    domain_id: DomainId
    description: str = ""
    extra: dict[str, Any] = {}


class Role(Struct, frozen=True, kw_only=True):
    """A role of one domain only gives what it implies; its own name is never in a token."""

    id: RoleId
    name: str
    domain_id: str = ""  # "" is global: a unique key treats NULLs as different
    description: str | None = None
    is_immutable: bool = False
    extra: dict[str, Any] = {}


class ActorKind(StrEnum):
    USER = "user"
    GROUP = "group"


class ScopeKind(StrEnum):
    PROJECT = "project"
    DOMAIN = "domain"
    SYSTEM = "system"


class Scope(Struct, frozen=True, kw_only=True):
    """Where a role counts."""

    kind: ScopeKind
    id: str


SYSTEM = Scope(kind=ScopeKind.SYSTEM, id="all")


class Actor(Struct, frozen=True, kw_only=True):
    kind: ActorKind
    id: str


class Assignment(Struct, frozen=True, kw_only=True):
    """`actor` has `role_id` in `scope`; one that is inherited, in every project below it instead."""

    actor: Actor
    scope: Scope
    role_id: RoleId
    is_inherited: bool = False


class Implication(Struct, frozen=True, kw_only=True):
    """Who has `prior_id` has `implied_id` too."""

    prior_id: RoleId
    implied_id: RoleId


class Event(Struct, frozen=True, kw_only=True):
    """Tokens of `subject` that were issued before event `number` are void."""

    number: int
    subject: str


class Revocation(Struct, frozen=True):
    """A revocation as it is shown."""

    subject: str
    revoked_at: datetime
    role_id: str | None = None
