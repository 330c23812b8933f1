"""Domains and projects: what may be done to the places that things belong to.

A domain is to Keystone a project that acts as one: it can be asked for, changed and deleted as a project.
Here it is a domain, and `api_places` shows it as a project where clients want to see one.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import DomainId
from cairn.db.engine import Tx
from cairn.identity import forget, grants, revocation, store, store_places
from cairn.identity.records import Domain, Project

TAGS_MAX = 80
TREE_MAX = 100_000  # projects of a caller that a tree is compared with
DEPTH_MAX = 5  # projects below one another, as Keystone's max_project_tree_depth


def domain(tx: Tx, domain_id: str) -> Domain:
    found = store.DOMAINS.get(tx, domain_id)
    if found is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return found


def create_domain(tx: Tx, new: Domain, tags: Collection[str] = ()) -> Domain:
    _require_free_domain_name(tx, new.name)
    if store.DOMAINS.get(tx, new.id) or store.PROJECTS.get(tx, new.id):
        raise Conflict(f"Conflict occurred attempting to store domain - Duplicate ID, {new.id}.")
    store.DOMAINS.add(tx, new)
    _set_tags(tx, new.id, tags)
    return new


def update_domain(
    tx: Tx, domain_id: str, changes: dict[str, Any], tags: Collection[str] | None = None
) -> Domain:
    old = domain(tx, domain_id)
    new = msgspec.structs.replace(old, **changes)
    _require_mutable(old, new, tags, f"domain {old.id}")
    if new.name != old.name:
        _require_free_domain_name(tx, new.name)
    store.DOMAINS.save(tx, new)
    if tags is not None:
        _set_tags(tx, new.id, tags)
    if old.enabled and not new.enabled:
        grants.require_an_admin(tx, besides_domain=old.id)
        revocation.revoke(tx, revocation.of_domain(old.id))
    return new


def delete_domain(tx: Tx, domain_id: str) -> None:
    """Delete a disabled domain with its projects, users, groups and roles."""
    old = domain(tx, domain_id)
    _require_mutable(old, None, None, f"domain {old.id}")
    if old.enabled:
        raise Denied("Cannot delete a domain that is enabled, please disable it first.")
    # Users of other domains may have roles anywhere by a group of this one.
    guests = store.guests_of_groups(tx, old.id)
    revocation.revoke(tx, revocation.of_domain(old.id), *map(revocation.of_user, guests))
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
    """Invalid where the place that it shall have cannot be: so Keystone says, not 404."""
    its_domain = store.DOMAINS.get(tx, new.domain_id)
    if its_domain is None:
        raise Invalid(f"Could not find domain: {new.domain_id}.")
    above: list[Project] = []
    if new.parent_id != new.domain_id:
        parent = store.PROJECTS.get(tx, new.parent_id)
        if parent is None:
            raise Invalid(f"Could not find project: {new.parent_id}.")
        if parent.domain_id != new.domain_id:
            raise Invalid("Field 'parent_id' names a project or domain that is not of the domain.")
        above = [parent, *store_places.ancestors(tx, parent.id)]
    line: list[Domain | Project] = [its_domain, *above]
    for place in line:
        if not place.enabled:
            raise Invalid(f"Cannot create a project below {place.id}, which is disabled.")
    if len(above) >= DEPTH_MAX:
        raise Denied(f"Max hierarchy depth reached for {new.parent_id} branch.")
    _require_free_project_name(tx, new.domain_id, new.name)
    store.PROJECTS.add(tx, new)
    _set_tags(tx, new.id, tags)
    return new


def update_project(
    tx: Tx, project_id: str, changes: dict[str, Any], tags: Collection[str] | None = None
) -> Project:
    old = project(tx, project_id)
    new = msgspec.structs.replace(old, **changes)
    if new.domain_id != old.domain_id:
        raise Invalid("Cannot change Domain ID: field 'domain_id' of a project is for good.")
    if new.parent_id != old.parent_id:
        raise Denied("Update of 'parent_id' is not allowed.")
    _require_mutable(old, new, tags, f"project {old.id}")
    if new.name != old.name:
        _require_free_project_name(tx, new.domain_id, new.name)
    if new.enabled and not old.enabled:
        _require_enabled_above(tx, old)
    store.PROJECTS.save(tx, new)
    if tags is not None:
        _set_tags(tx, new.id, tags)
    if old.enabled and not new.enabled:
        if store_places.is_enabled_below(tx, old.id):
            raise Denied(
                f"Cannot disable project {old.id} since its subtree contains enabled projects."
            )
        revocation.revoke(tx, revocation.of_project(old.id))
    return new


def _require_enabled_above(tx: Tx, old: Project) -> None:
    above: list[Domain | Project] = [domain(tx, old.domain_id)]
    for place in above + store_places.ancestors(tx, old.id):
        if not place.enabled:
            raise Denied(f"Cannot enable project {old.id} since {place.id} above it is disabled.")


def delete_project(tx: Tx, project_id: str) -> None:
    old = project(tx, project_id)
    _require_mutable(old, None, None, f"project {old.id}")
    if store.PROJECTS.find(tx, store.projects.c.parent_id == old.id) is not None:
        raise Denied(f"Cannot delete the project {old.id} since it is not a leaf in the hierarchy.")
    revocation.revoke(tx, revocation.of_project(old.id))
    forget.project(tx, old.id)
    grants.require_an_admin(tx)


def set_tags(tx: Tx, id_: str, tags: Collection[str]) -> list[str]:
    """The tags of a project, or of a domain as a project."""
    place = store.DOMAINS.get(tx, id_) or project(tx, id_)
    _require_mutable(place, None, None, f"tags of {place.id}")
    return _set_tags(tx, place.id, tags)


def _set_tags(tx: Tx, id_: str, tags: Collection[str]) -> list[str]:
    if len(set(tags)) < len(tags):
        raise Invalid("Field 'tags' has an entry twice.")
    if len(tags) > TAGS_MAX:
        raise Invalid(f"Field 'tags' may have at most {TAGS_MAX} entries.")
    kept = sorted(tags)
    store_places.replace_tags(tx, id_, kept)
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


def _require_mutable(
    old: Domain | Project,
    new: Domain | Project | None,
    tags: Collection[str] | None,
    what: str,
) -> None:
    """What is immutable may be released, and nothing else with it. `new` is None for what is no release."""
    is_release = new == msgspec.structs.replace(old, is_immutable=False) and tags is None
    if old.is_immutable and not is_release:
        raise Denied(f"Cannot change the {what}: its option 'immutable' is set.")
