"""Which requests look at a directory before they are answered, and which it refuses.

The routes stay what they are: this puts something before them. A cloud without a directory pays a look at
one flag. A directory is read-only, as it is to Keystone: who is in it and in which group is decided there.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from cairn.core.errors import Denied, NotFound
from cairn.db.engine import Database
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity.directory import store as kept
from cairn.identity.directory.directories import Directories
from cairn.identity.targets import home_domain

Look = Callable[[Directories, Database, Call[Any]], Awaitable[None]]

_READ_ONLY = "it is kept in the directory of its domain (LDAP), which is read-only here"


def over(directories: Directories, routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes, with a look before those that need one."""
    return tuple(
        _looking(directories, route, look)
        if (look := LOOKS.get((route.method, route.path))) is not None
        else route
        for route in routes
    )


def _looking(directories: Directories, route: Route, look: Look) -> Route:
    do, run = route.do, route.run

    async def looked(database: Database, call: Call[Any]) -> Any:
        is_any = await directories.is_any()
        if is_any:
            await look(directories, database, call)
        if run is not None:
            result = await run(database, call)
        else:
            assert do is not None, "a route has one of both"
            answer = do
            if route.changes:
                result = await database.write(lambda tx: answer(tx, call))
            else:
                result = await database.read(lambda tx: answer(tx, call), stale_ok=route.stale_ok)
        return await _without_gone(database, result) if is_any else result

    return msgspec.structs.replace(route, do=None, run=looked)


async def _without_gone(database: Database, result: Any) -> Any:
    """A list without those who are in no directory any more."""
    body = result.body if isinstance(result, Reply) else result
    if not isinstance(body, dict):
        return result
    for key in ("users", "groups"):
        if isinstance(things := body.get(key), list):
            ids = [thing["id"] for thing in things]
            known = await database.read(partial(kept.many, ids=ids))
            gone = {entry.id for entry in known.values() if entry.gone_at is not None}
            body = {**body, key: [thing for thing in things if thing["id"] not in gone]}
    return msgspec.structs.replace(result, body=body) if isinstance(result, Reply) else body


async def _users(directories: Directories, database: Database, call: Call[Any]) -> None:
    if "marker" not in call.query:  # A page further on is about what was seen at the first.
        name, domain_id = call.query.get("name"), call.query.get("domain_id")
        await directories.look_at_users(database, domain_id, name)


async def _groups(directories: Directories, database: Database, call: Call[Any]) -> None:
    if "marker" not in call.query:
        name, domain_id = call.query.get("name"), call.query.get("domain_id")
        await directories.look_at_groups(database, domain_id, name)


async def _user(directories: Directories, database: Database, call: Call[Any]) -> None:
    await _require_there(database, call, "user")
    await directories.look_at_user(database, call.path["user_id"])


async def _user_with_groups(directories: Directories, database: Database, call: Call[Any]) -> None:
    await _require_there(database, call, "user")
    await directories.look_at_user(database, call.path["user_id"], groups=True)


async def _group(directories: Directories, database: Database, call: Call[Any]) -> None:
    await _require_there(database, call, "group")
    await directories.look_at_group(database, call.path["group_id"])


async def _group_with_members(
    directories: Directories, database: Database, call: Call[Any]
) -> None:
    await _require_there(database, call, "group")
    await directories.look_at_group(database, call.path["group_id"], members=True)


async def _require_there(database: Database, call: Call[Any], what: str) -> None:
    id_ = call.path[f"{what}_id"]
    entry = await database.read(lambda tx: kept.entry(tx, id_))
    if entry is not None and entry.gone_at is not None:
        raise NotFound(f"Could not find {what}: {id_}.")


async def _refuse_new(directories: Directories, database: Database, call: Call[Any]) -> None:
    for what in ("user", "group"):
        document = getattr(call.body, what, None)
        if isinstance(document, dict):
            asked = document.get("domain_id")
            domain_id = home_domain(call, asked if isinstance(asked, str) else None)
            if domain_id in await directories.domain_ids():
                raise Denied(
                    f"Cannot create a {what} in domain {domain_id}: its users and groups are kept in a"
                    " directory (LDAP), which is read-only here."
                )


async def _refuse_change(directories: Directories, database: Database, call: Call[Any]) -> None:
    for what in ("user", "group"):
        id_ = call.path.get(f"{what}_id")
        entry = await database.read(partial(kept.entry, id_=id_)) if id_ else None
        if entry is not None and entry.gone_at is None:
            raise Denied(f"Cannot change the {what} {id_}: {_READ_ONLY}.")


_USER, _GROUP = "/v3/users/{user_id}", "/v3/groups/{group_id}"
_MEMBER = f"{_GROUP}/users/{{user_id}}"
LOOKS: Mapping[tuple[str, str], Look] = {
    ("GET", "/v3/users"): _users,
    ("POST", "/v3/users"): _refuse_new,
    ("GET", _USER): _user,
    ("PATCH", _USER): _refuse_change,
    ("DELETE", _USER): _refuse_change,
    ("POST", f"{_USER}/password"): _refuse_change,
    ("GET", f"{_USER}/groups"): _user_with_groups,
    ("GET", f"{_USER}/projects"): _user_with_groups,
    ("GET", "/v3/groups"): _groups,
    ("POST", "/v3/groups"): _refuse_new,
    ("GET", _GROUP): _group,
    ("PATCH", _GROUP): _refuse_change,
    ("DELETE", _GROUP): _refuse_change,
    ("GET", f"{_GROUP}/users"): _group_with_members,
    ("GET", _MEMBER): _group_with_members,
    ("HEAD", _MEMBER): _group_with_members,
    ("PUT", _MEMBER): _refuse_change,
    ("DELETE", _MEMBER): _refuse_change,
}
