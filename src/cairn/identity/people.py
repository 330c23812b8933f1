"""Users and groups: what may be done to them, and which tokens that voids.

Passwords arrive here as hashes: making one takes long and would hold the transaction open.
"""

from typing import Any

import msgspec

from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import UserId
from cairn.db.engine import Tx
from cairn.identity import forget, grants, places, revocation, store
from cairn.identity.records import Actor, ActorKind, Group, GroupId, User

GRANTS_MAX = 10_000


def user(tx: Tx, user_id: str) -> User:
    found = store.USERS.get(tx, user_id)
    if found is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return found


def create_user(tx: Tx, new: User, password_hash: str | None) -> User:
    places.domain(tx, new.domain_id)
    _require_free_user_name(tx, new)
    store.USERS.add(tx, new)
    store.set_password_hash(tx, new.id, password_hash)
    return new


def update_user(
    tx: Tx, user_id: str, changes: dict[str, Any], password_hash: str | None = None
) -> User:
    """Change a user; a new password or disabling voids the tokens that were issued before."""
    old = user(tx, user_id)
    new = msgspec.structs.replace(old, **changes)
    if new.domain_id != old.domain_id:
        raise Invalid("Field 'domain_id' of a user cannot be changed.")
    if new.name != old.name:
        _require_free_user_name(tx, new)
    store.USERS.save(tx, new)
    if password_hash is not None:
        store.set_password_hash(tx, old.id, password_hash)
    is_disabled_now = old.enabled and not new.enabled
    if is_disabled_now or password_hash is not None:
        revocation.revoke(tx, revocation.of_user(old.id))
    if is_disabled_now:
        grants.require_an_admin(tx)
    return new


def delete_user(tx: Tx, user_id: str) -> None:
    old = user(tx, user_id)
    revocation.revoke(tx, revocation.of_user(old.id))
    forget.user(tx, old.id)
    grants.require_an_admin(tx)


def group(tx: Tx, group_id: str) -> Group:
    found = store.GROUPS.get(tx, group_id)
    if found is None:
        raise NotFound(f"Could not find group: {group_id}.")
    return found


def create_group(tx: Tx, new: Group) -> Group:
    places.domain(tx, new.domain_id)
    _require_free_group_name(tx, new)
    return store.GROUPS.add(tx, new)


def update_group(tx: Tx, group_id: str, changes: dict[str, Any]) -> Group:
    old = group(tx, group_id)
    new = msgspec.structs.replace(old, **changes)
    if new.domain_id != old.domain_id:
        raise Invalid("Field 'domain_id' of a group cannot be changed.")
    if new.name != old.name:
        _require_free_group_name(tx, new)
    return store.GROUPS.save(tx, new)


def delete_group(tx: Tx, group_id: str) -> None:
    old = group(tx, group_id)
    actor = Actor(kind=ActorKind.GROUP, id=old.id)
    for grant in store.assignments_where(tx, actor=actor, limit=GRANTS_MAX):
        grants.revoke_holders(tx, grant)
    forget.group(tx, old.id)
    grants.require_an_admin(tx)


def add_to_group(tx: Tx, group_id: str, user_id: str) -> None:
    store.add_member(tx, group(tx, group_id).id, user(tx, user_id).id)


def remove_from_group(tx: Tx, group_id: str, user_id: str) -> None:
    require_in_group(tx, group_id, user_id)
    store.remove_member(tx, GroupId(group_id), UserId(user_id))
    revocation.revoke(tx, revocation.of_user(UserId(user_id)))
    grants.require_an_admin(tx)


def require_in_group(tx: Tx, group_id: str, user_id: str) -> None:
    """NotFound unless the user is in the group."""
    if not store.is_member(tx, group(tx, group_id).id, user(tx, user_id).id):
        raise NotFound(f"User {user_id} not found in group {group_id}.")


def _require_free_user_name(tx: Tx, new: User) -> None:
    columns = store.users.c
    if store.USERS.find(tx, columns.domain_id == new.domain_id, columns.name == new.name):
        raise Conflict(
            f"Conflict occurred attempting to store user - Duplicate entry found with name "
            f"{new.name} at domain ID {new.domain_id}."
        )


def _require_free_group_name(tx: Tx, new: Group) -> None:
    columns = store.groups.c
    if store.GROUPS.find(tx, columns.domain_id == new.domain_id, columns.name == new.name):
        raise Conflict(
            f"Conflict occurred attempting to store group - Duplicate entry found with name "
            f"{new.name} at domain ID {new.domain_id}."
        )
