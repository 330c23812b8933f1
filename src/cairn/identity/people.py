"""Users and groups: what may be done to them, and which tokens that voids.

Passwords arrive here as hashes: making one takes long and would hold the transaction open.
"""

from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import UserId
from cairn.db.engine import Tx
from cairn.identity import forget, grants, places, revocation, store, store_grants
from cairn.identity.accounts import guesses, password_store, user_options
from cairn.identity.accounts.security import USUAL, Security
from cairn.identity.delegation import delegation
from cairn.identity.federation import store as federation_store
from cairn.identity.records import Actor, ActorKind, Group, GroupId, User

GRANTS_MAX = 10_000


class NewPassword(Struct, frozen=True, kw_only=True):
    """What a user's password is to become."""

    hash: str | None  # None: there is none any more, and the user cannot sign in with one
    is_own: bool = False  # the user has chosen it, and not somebody for the user


def user(tx: Tx, user_id: str) -> User:
    found = store.USERS.get(tx, user_id)
    if found is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return found


def create_user(tx: Tx, new: User, password_hash: str | None, security: Security = USUAL) -> User:
    places.domain(tx, new.domain_id)
    _require_free_user_name(tx, new)
    if password_hash is not None:
        expires_at = security.expiry(tx.now, new, is_own=False)
        new = msgspec.structs.replace(new, password_expires_at=expires_at)
    store.USERS.add(tx, new)
    password_store.begin(tx, new.id, password_hash)
    return new


def update_user(
    tx: Tx,
    user_id: str,
    changes: dict[str, Any],
    password: NewPassword | None = None,
    security: Security = USUAL,
) -> User:
    """Change a user; a new password or disabling voids the tokens that were issued before.

    `changes["options"]` are those to change; the others stay.
    """
    old = user(tx, user_id)
    if "options" in changes:
        changes = {**changes, "options": user_options.merged(old.options, changes["options"])}
    new = msgspec.structs.replace(old, **changes)
    if new.domain_id != old.domain_id:
        raise Invalid("Field 'domain_id' of a user cannot be changed.")
    if new.name != old.name:
        _require_free_user_name(tx, new)
    if password is not None:
        new = _with_password(tx, new, password, security)
    store.USERS.save(tx, new)
    if changes.get("enabled"):
        password_store.note_active(tx, old.id)
    if changes.get("enabled") or password is not None:
        guesses.forget(tx, old.id)
    is_disabled_now = old.enabled and not new.enabled
    if is_disabled_now or password is not None:
        revocation.revoke(tx, revocation.of_user(old.id))
    if is_disabled_now:
        delegation.disable_user(tx, old.id)
        grants.require_an_admin(tx)
    return new


def require_may_change_password(tx: Tx, who: User, security: Security) -> None:
    """Invalid where the user's own change is not wanted, or not yet."""
    if who.options.get("lock_password"):
        raise Invalid(
            "You cannot change your password: the option 'lock_password' is set. Ask an"
            " administrator to reset it."
        )
    present = password_store.current(tx, who.id)
    if not present.is_own or present.made_at is None or not security.password_days_min:
        return
    left = present.made_at + timedelta(days=security.password_days_min) - tx.now
    if left > timedelta():
        raise Invalid(
            f"A password must be used for {security.password_days_min} day(s) before it can be"
            f" changed. Try again in {left.days} day(s), or ask an administrator to reset it."
        )


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
    for grant in store_grants.assignments_where(tx, actor=actor, limit=GRANTS_MAX):
        grants.revoke_holders(tx, grant)
    forget.group(tx, old.id)
    grants.require_an_admin(tx)


def add_to_group(tx: Tx, group_id: str, user_id: str) -> None:
    store.add_member(tx, group(tx, group_id).id, user(tx, user_id).id)
    federation_store.forget_lasting_group(tx, group_id, user_id)  # From now on it is for good.


def remove_from_group(tx: Tx, group_id: str, user_id: str) -> None:
    require_in_group(tx, group_id, user_id)
    store.remove_member(tx, GroupId(group_id), UserId(user_id))
    revocation.revoke(tx, revocation.of_user(UserId(user_id)))
    grants.require_an_admin(tx)


def require_in_group(tx: Tx, group_id: str, user_id: str) -> None:
    """NotFound unless the user is in the group."""
    if not store.is_member(tx, group(tx, group_id).id, user(tx, user_id).id):
        raise NotFound(f"User {user_id} not found in group {group_id}.")


def _with_password(tx: Tx, changed: User, password: NewPassword, security: Security) -> User:
    expires_at = None
    if password.hash is not None:
        expires_at = security.expiry(tx.now, changed, is_own=password.is_own)
    password_store.replace(
        tx,
        changed.id,
        password.hash,
        is_own=password.is_own,
        keep=security.passwords_unique,
    )
    return msgspec.structs.replace(changed, password_expires_at=expires_at)


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
