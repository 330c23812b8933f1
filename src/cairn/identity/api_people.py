"""Users, groups and who is in which over HTTP. Passwords are hashed before a transaction is opened."""

import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement

from cairn.core.errors import Invalid
from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import people, signin, store, store_grants, targets
from cairn.identity.accounts import password_store, user_options
from cairn.identity.accounts.lockout import Lockout
from cairn.identity.accounts.passwords import Passwords, require_usable
from cairn.identity.accounts.security import Security
from cairn.identity.api_places import show_projects
from cairn.identity.federation import linking
from cairn.identity.listing import filters, link, listed, listing, page
from cairn.identity.methods.method import Named
from cairn.identity.methods.password import prove_hash
from cairn.identity.people import NewPassword
from cairn.identity.records import Group, GroupId, User
from cairn.identity.shapes import (
    GroupBody,
    GroupWish,
    PasswordBody,
    UserBody,
    UserWish,
    read,
    require_name,
)
from cairn.identity.targets import home_domain


class PeopleRoutes:
    def __init__(self, passwords: Passwords, lockout: Lockout, security: Security) -> None:
        self._passwords = passwords
        self._lockout = lockout
        self._security = security

    def routes(self) -> tuple[Route, ...]:
        user, group = "/v3/users/{user_id}", "/v3/groups/{group_id}"
        member = f"{group}/users/{{user_id}}"
        return (
            Route(method="GET", path="/v3/users", rule="identity:list_users", do=list_users,
                  target=targets.of_own_domain),
            Route(method="POST", path="/v3/users", rule="identity:create_user",
                  run=self._create_user, body=UserBody, status=201,
                  target=targets.of_new_user),
            Route(method="GET", path=user, rule="identity:get_user", do=get_user,
                  target=targets.of_user),
            Route(method="PATCH", path=user, rule="identity:update_user", run=self._update_user,
                  body=UserBody, target=targets.of_user),
            Route(method="DELETE", path=user, rule="identity:delete_user", do=delete_user,
                  status=204, target=targets.of_user),
            # Public: the old password is the proof, and a token need not be had (api-ref, users).
            Route(method="POST", path=f"{user}/password", rule=None, run=self._change_password,
                  body=PasswordBody, status=204),
            Route(method="GET", path=f"{user}/groups", rule="identity:list_groups_for_user",
                  do=groups_of_user, target=targets.of_user),
            Route(method="GET", path=f"{user}/projects", rule="identity:list_user_projects",
                  do=projects_of_user, target=targets.of_user),
            Route(method="GET", path="/v3/groups", rule="identity:list_groups", do=list_groups,
                  target=targets.of_own_domain),
            Route(method="POST", path="/v3/groups", rule="identity:create_group", do=create_group,
                  body=GroupBody, status=201, target=targets.of_new_group),
            Route(method="GET", path=group, rule="identity:get_group", do=get_group,
                  target=targets.of_group),
            Route(method="PATCH", path=group, rule="identity:update_group", do=update_group,
                  body=GroupBody, target=targets.of_group),
            Route(method="DELETE", path=group, rule="identity:delete_group", do=delete_group,
                  status=204, target=targets.of_group),
            Route(method="GET", path=f"{group}/users", rule="identity:list_users_in_group",
                  do=users_in_group, target=targets.of_group),
            Route(method="PUT", path=member, rule="identity:add_user_to_group", do=add_to_group,
                  status=204, target=targets.of_member),
            Route(method="GET", path=member, rule="identity:check_user_in_group",
                  do=check_in_group, status=204, target=targets.of_member),
            Route(method="DELETE", path=member, rule="identity:remove_user_from_group",
                  do=remove_from_group, status=204, target=targets.of_member),
        )  # fmt: skip

    async def _create_user(self, database: Database, call: Call[UserBody]) -> dict[str, Any]:
        changes, extra = read(call.body.user, UserWish, "user")
        require_name(changes, "user")
        hash_ = await self._hashed(changes.pop("password", None))
        domain_id = home_domain(call, changes.pop("domain_id", None))
        options = user_options.merged({}, changes.pop("options", {}))
        federated = changes.pop("federated", ())

        def create(tx: Tx) -> User:
            new = User(
                id=UserId(tx.new_hex_id()), domain_id=domain_id, **changes, options=options,
                extra=extra,
            )  # fmt: skip
            made = people.create_user(tx, new, hash_, self._security)
            if federated:
                linking.link(tx, made.id, federated)
            return made

        return {"user": await self._shown(database, call, await database.write(create))}

    async def _update_user(self, database: Database, call: Call[UserBody]) -> dict[str, Any]:
        changes, extra = read(call.body.user, UserWish, "user")
        if changes.get("domain_id", "") is None:
            raise Invalid("Field 'domain_id' of a user cannot be changed.")
        user_id = call.path["user_id"]
        new: NewPassword | None = None
        if "password" in changes:
            new = NewPassword(hash=await self._hashed(changes.pop("password")))
        federated = changes.pop("federated", None)

        def update(tx: Tx) -> User:
            merged = {**people.user(tx, user_id).extra, **extra}
            wanted = {**changes, "extra": merged}
            changed = people.update_user(tx, user_id, wanted, new, self._security)
            if federated is not None:
                linking.link(tx, changed.id, federated)
            return changed

        return {"user": await self._shown(database, call, await database.write(update))}

    async def _shown(self, database: Database, call: Call[Any], user: User) -> dict[str, Any]:
        more = await database.read(lambda tx: linking.shown(tx, user.id))
        return {**show_user(call, user), **more}

    async def _change_password(self, database: Database, call: Call[PasswordBody]) -> None:
        """The user's own change: by the old password, so one that has expired will do."""
        wish, named = call.body.user, Named(id=call.path["user_id"])
        require_usable(wish.password)
        proof = await prove_hash(
            database,
            self._passwords,
            self._lockout,
            named,
            wish.original_password,
            may_be_expired=True,
        )
        self._security.require_good(wish.password)
        unique = self._security.passwords_unique
        before = await database.read(lambda tx: password_store.last(tx, proof.user_id, unique))
        if await self._passwords.made_any(before, wish.password):
            raise Invalid(
                "The new password cannot be identical to a previous password. The last"
                f" {unique} passwords may not be used again."
            )
        new = NewPassword(hash=await self._passwords.hash(wish.password), is_own=True)

        def change(tx: Tx) -> None:
            user = people.user(tx, proof.user_id)
            proof.recheck(tx, user)
            if not user.enabled:
                raise signin.refused(f"user {user.id} is disabled")
            people.require_may_change_password(tx, user, self._security)
            people.update_user(tx, user.id, {}, new, self._security)

        await database.write(change)

    async def _hashed(self, password: str | None) -> str | None:
        if password is None:
            return None
        self._security.require_good(password)
        return await self._passwords.hash(password)


def show_user(call: Call[Any], user: User) -> dict[str, Any]:
    shown: dict[str, Any] = {
        **user.extra,
        "id": user.id,
        "name": user.name,
        "domain_id": user.domain_id,
        "enabled": user.enabled,
        "options": user.options,
        "password_expires_at": show_expiry(user),
        "links": link(call, f"users/{user.id}"),
    }
    # Keystone shows these only where somebody has set them; Tempest compares.
    for name in ("default_project_id", "description", "email"):
        if (value := getattr(user, name)) is not None:
            shown[name] = value
    return shown


def show_expiry(user: User) -> str | None:
    """When the password expires, as users and tokens show it: UTC, without saying so."""
    moment = user.password_expires_at
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "neq": operator.ne, "lt": operator.lt, "lte": operator.le,
    "gt": operator.gt, "gte": operator.ge,
}  # fmt: skip


def expiry_filter(call: Call[Any]) -> list[ColumnElement[bool]]:
    """`password_expires_at=lt:2016-12-08T22:02:00Z`; without an operator, exactly then."""
    asked = call.query.get("password_expires_at")
    if asked is None:
        return []
    name, colon, text = asked.partition(":")
    if not colon or name[:1].isdigit():
        name, text = "eq", asked
    if name not in _COMPARISONS:
        raise Invalid(
            f"Query parameter 'password_expires_at': '{name[:20]}' is no operator; use one of"
            f" {', '.join(_COMPARISONS)}."
        )
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(
            f"Query parameter 'password_expires_at': '{text[:40]}' is no time; write it as in"
            " 2016-12-08T22:02:00Z."
        ) from error
    return [_COMPARISONS[name](store.users.c.password_expires_at, moment)]


def show_group(call: Call[Any], group: Group) -> dict[str, Any]:
    return {
        **group.extra,
        "id": group.id,
        "name": group.name,
        "domain_id": group.domain_id,
        "description": group.description,
        "links": link(call, f"groups/{group.id}"),
    }


def list_users(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wanted = filters(call, store.USERS, ("name", "domain_id", "enabled", "default_project_id"))
    wanted += [*expiry_filter(call), *linking.filters(call)]
    if mine := call.who.scope_domain_id:
        wanted.append(store.users.c.domain_id == mine)
    return listing(tx, call, "users", store.USERS, wanted, show_user)


def get_user(tx: Tx, call: Call[None]) -> dict[str, Any]:
    user = people.user(tx, call.path["user_id"])
    return {"user": {**show_user(call, user), **linking.shown(tx, user.id)}}


def delete_user(tx: Tx, call: Call[None]) -> None:
    people.delete_user(tx, call.path["user_id"])


def groups_of_user(tx: Tx, call: Call[None]) -> dict[str, Any]:
    user = people.user(tx, call.path["user_id"])
    wanted = [store.has_member(user.id), *filters(call, store.GROUPS, ("name",))]
    shown, following = page(tx, call, store.GROUPS, wanted)
    ends = linking.ends_of(tx, user.id)
    groups = [{**show_group(call, g), "membership_expires_at": ends.get(g.id)} for g in shown]
    return listed(call, "groups", groups, following)


def projects_of_user(tx: Tx, call: Call[None]) -> dict[str, Any]:
    user = people.user(tx, call.path["user_id"])
    wanted = filters(call, store.PROJECTS, ("name", "domain_id", "enabled", "parent_id"))
    shown, following = page(
        tx, call, store.PROJECTS, [store_grants.projects_of_user(user.id), *wanted]
    )
    return listed(call, "projects", show_projects(tx, call, shown), following)


def list_groups(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wanted = filters(call, store.GROUPS, ("name", "domain_id"))
    if mine := call.who.scope_domain_id:
        wanted.append(store.groups.c.domain_id == mine)
    return listing(tx, call, "groups", store.GROUPS, wanted, show_group)


def create_group(tx: Tx, call: Call[GroupBody]) -> dict[str, Any]:
    changes, extra = read(call.body.group, GroupWish, "group")
    require_name(changes, "group")
    domain_id = home_domain(call, changes.pop("domain_id", None))
    new = Group(id=GroupId(tx.new_hex_id()), domain_id=domain_id, **changes, extra=extra)
    return {"group": show_group(call, people.create_group(tx, new))}


def get_group(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"group": show_group(call, people.group(tx, call.path["group_id"]))}


def update_group(tx: Tx, call: Call[GroupBody]) -> dict[str, Any]:
    changes, extra = read(call.body.group, GroupWish, "group")
    old = people.group(tx, call.path["group_id"])
    new = people.update_group(tx, old.id, {**changes, "extra": {**old.extra, **extra}})
    return {"group": show_group(call, new)}


def delete_group(tx: Tx, call: Call[None]) -> None:
    people.delete_group(tx, call.path["group_id"])


def users_in_group(tx: Tx, call: Call[None]) -> dict[str, Any]:
    group = people.group(tx, call.path["group_id"])
    wanted = [store.is_in_group(group.id), *filters(call, store.USERS, ("name", "enabled"))]
    wanted += expiry_filter(call)
    return listing(tx, call, "users", store.USERS, wanted, show_user)


def add_to_group(tx: Tx, call: Call[None]) -> None:
    people.add_to_group(tx, call.path["group_id"], call.path["user_id"])


def check_in_group(tx: Tx, call: Call[None]) -> None:
    people.require_in_group(tx, call.path["group_id"], call.path["user_id"])


def remove_from_group(tx: Tx, call: Call[None]) -> None:
    people.remove_from_group(tx, call.path["group_id"], call.path["user_id"])
