"""Domains and projects: what may be done to the places that things belong to."""

from collections.abc import Collection
from typing import Any

import msgspec

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import DomainId, ProjectId
from cairn.db.engine import Tx
from cairn.identity import forget, grants, revocation, store
from cairn.identity.records import Domain, Project

TAGS_MAX = 80


def domain(tx: Tx, domain_id: str) -> Domain:
    found = store.DOMAINS.get(tx, domain_id)
    if found is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return found


def create_domain(tx: Tx, new: Domain) -> Domain:
    _require_free_domain_name(tx, new.name)
    return store.DOMAINS.add(tx, new)


def update_domain(tx: Tx, domain_id: str, changes: dict[str, Any]) -> Domain:
    old = domain(tx, domain_id)
    new = msgspec.structs.replace(old, **changes)
    _require_mutable(old.is_immutable and new.is_immutable, f"domain {old.id}")
    if new.name != old.name:
        _require_free_domain_name(tx, new.name)
    store.DOMAINS.save(tx, new)
    if old.enabled and not new.enabled:
        grants.require_an_admin(tx, besides_domain=old.id)
        revocation.revoke(tx, revocation.of_domain(old.id))
    return new


def delete_domain(tx: Tx, domain_id: str) -> None:
    """Delete a disabled domain with its projects, users, groups and roles."""
    old = domain(tx, domain_id)
    _require_mutable(old.is_immutable, f"domain {old.id}")
    if old.enabled:
        raise Denied("Cannot delete a domain that is enabled, please disable it first.")
    revocation.revoke(tx, revocation.of_domain(old.id))
    forget.domain(tx, old.id)
    grants.require_an_admin(tx)


def project(tx: Tx, project_id: str) -> Project:
    found = store.PROJECTS.get(tx, project_id)
    if found is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return found


def project_exists(tx: Tx, project_id: str) -> bool:
    return store.PROJECTS.get(tx, project_id) is not None


def create_project(tx: Tx, new: Project, tags: Collection[str] = ()) -> Project:
    domain(tx, new.domain_id)
    if new.parent_id != new.domain_id:
        parent = project(tx, new.parent_id)
        if parent.domain_id != new.domain_id:
            raise Invalid("Field 'parent_id' names a project of another domain.")
        if not parent.enabled:
            raise Denied(f"Cannot create a project under the disabled project {parent.id}.")
    _require_free_project_name(tx, new.domain_id, new.name)
    store.PROJECTS.add(tx, new)
    store.replace_tags(tx, new.id, sorted(set(tags)))
    return new


def update_project(
    tx: Tx, project_id: str, changes: dict[str, Any], tags: Collection[str] | None = None
) -> Project:
    old = project(tx, project_id)
    new = msgspec.structs.replace(old, **changes)
    _require_mutable(old.is_immutable and new.is_immutable, f"project {old.id}")
    if new.domain_id != old.domain_id or new.parent_id != old.parent_id:
        raise Invalid("A project cannot be moved to another domain or parent.")
    if new.name != old.name:
        _require_free_project_name(tx, new.domain_id, new.name)
    store.PROJECTS.save(tx, new)
    if tags is not None:
        set_tags(tx, new.id, tags)
    if old.enabled and not new.enabled:
        revocation.revoke(tx, revocation.of_project(old.id))
    return new


def delete_project(tx: Tx, project_id: str) -> None:
    old = project(tx, project_id)
    _require_mutable(old.is_immutable, f"project {old.id}")
    if store.PROJECTS.find(tx, store.projects.c.parent_id == old.id) is not None:
        raise Denied(f"Cannot delete the project {old.id} since it is not a leaf in the hierarchy.")
    revocation.revoke(tx, revocation.of_project(old.id))
    forget.project(tx, old.id)
    grants.require_an_admin(tx)


def set_tags(tx: Tx, project_id: ProjectId, tags: Collection[str]) -> list[str]:
    kept = sorted(set(tags))
    if len(kept) > TAGS_MAX:
        raise Invalid(f"Field 'tags' may have at most {TAGS_MAX} entries.")
    store.replace_tags(tx, project_id, kept)
    return kept


def _require_free_domain_name(tx: Tx, name: str) -> None:
    if store.DOMAINS.find(tx, store.domains.c.name == name) is not None:
        raise Conflict(
            f"Conflict occurred attempting to store domain - it is not permitted to have two "
            f"domains with the same name: {name}."
        )


def _require_free_project_name(tx: Tx, domain_id: DomainId, name: str) -> None:
    columns = store.projects.c
    if store.PROJECTS.find(tx, columns.domain_id == domain_id, columns.name == name) is not None:
        raise Conflict(
            f"Conflict occurred attempting to store project - it is not permitted to have two "
            f"projects with the same name in the same domain: {name}."
        )


def _require_mutable(is_immutable: bool, what: str) -> None:
    if is_immutable:
        raise Denied(f"Cannot change the {what}: its option 'immutable' is set.")
