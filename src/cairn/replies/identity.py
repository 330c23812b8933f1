"""Identity's resources."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class Domain(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str | None
    enabled: bool
    tags: list[Any]
    options: dict[str, Any] | None
    links: dict[str, Any]


class Project(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str | None
    parent_id: str | None
    description: str | None
    enabled: bool
    is_domain: bool
    tags: list[str]
    options: dict[str, Any] | None
    links: dict[str, Any]


class User(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str | None
    enabled: bool
    options: dict[str, Any] | None
    password_expires_at: Any
    links: dict[str, Any]
    default_project_id: str | UnsetType | None = UNSET


class Group(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str | None
    description: str | None
    links: dict[str, Any]


class Role(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: Any
    description: Any
    options: dict[str, Any] | None
    links: dict[str, Any]


class Region(Struct, frozen=True, kw_only=True):
    id: str
    description: str | None
    parent_region_id: Any
    links: dict[str, Any]


class CatalogService(Struct, frozen=True, kw_only=True):
    description: str | UnsetType | None = UNSET
    id: str
    type: str | None
    name: str
    enabled: bool
    links: dict[str, Any]


class Endpoint(Struct, frozen=True, kw_only=True):
    id: str
    interface: str | None
    region: str | None
    region_id: str | None
    service_id: str | None
    url: str | None
    enabled: bool
    links: dict[str, Any]


class Credential(Struct, frozen=True, kw_only=True):
    id: str
    user_id: str | None
    project_id: str | None
    type: str | None
    blob: str | None
    links: dict[str, Any]


class StoredPolicy(Struct, frozen=True, kw_only=True):
    id: str
    type: str | None
    blob: str | None
    links: dict[str, Any]


class RegisteredLimit(Struct, frozen=True, kw_only=True):
    id: str
    service_id: str | None
    region_id: Any
    resource_name: str | None
    default_limit: int | None
    description: str | None
    links: dict[str, Any]


class Limit(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    domain_id: Any
    service_id: str | None
    region_id: Any
    resource_name: str | None
    resource_limit: int | None
    description: Any
    links: dict[str, Any]


class RoleAssignment(Struct, frozen=True, kw_only=True):
    role: dict[str, Any] | None
    user: dict[str, Any] | None
    scope: dict[str, Any] | None
    links: dict[str, Any]
