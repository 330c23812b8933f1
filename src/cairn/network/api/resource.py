"""What all resources of the API have in common, once: list, show, create, bulk, change, delete, tags.

Neutron's API is regular: every attribute is a filter, a sort key and a field; every resource has a
revision and tags. So a family only says what its resource is called, which verbs serve it and how a
record looks (`Resource`), and gets its routes from `routes`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from cairn.core.caller import Caller
from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.pages import LIMIT_MAX, page_of
from cairn.http.routes import Do, Reply, Route
from cairn.network.records import Search
from cairn.network.service import tags

Shown = dict[str, Any]

BULK_MAX = 500  # resources made by one request
_RESERVED = ("fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir")
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)


class Record(Protocol):
    """What every record has."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> int: ...


class Resource(Struct, frozen=True, kw_only=True):
    one: str  # "security_group": the key of one in a body
    many: str  # "security_groups"
    path: str  # "security-groups"
    wish: Any  # the Struct that a body is; None: cannot be made or changed
    find: Callable[[Tx, Caller, Search], Sequence[Any]]
    get: Callable[[Tx, Caller, str], Any]
    show: Callable[[Tx, Sequence[Any]], list[Shown]]
    create: Callable[[Tx, Caller, Any], Any]
    update: Callable[[Tx, Caller, str, Any], Any] | None
    delete: Callable[[Tx, Caller, str], None]
    fixed: frozenset[str] = frozenset()  # attributes that a change may not carry
    hidden: tuple[str, ...] = ()  # shown only to whom policy lets see them
    list_run: Any = None  # instead of the plain list, where listing may have to write
    has_tags: bool = True


def routes(kind: Resource) -> tuple[Route, ...]:
    """The routes that every resource has."""
    noun, base = kind.one, f"/v2.0/{kind.path}"
    one = f"{base}/{{resource_id}}"
    listing: dict[str, Any] = (
        {"run": kind.list_run} if kind.list_run else {"do": _bound(_list, kind), "stale_ok": True}
    )
    result = [
        Route(method="GET", path=base, rule=f"get_{noun}", **listing),
        Route(method="GET", path=one, rule=f"get_{noun}", do=_bound(_show, kind)),
        Route(
            method="POST", path=base, rule=f"create_{noun}", do=_bound(_create, kind), body=object,
            status=201,
        ),
        Route(
            method="DELETE", path=one, rule=f"delete_{noun}", do=_bound(_delete, kind), status=204
        ),
    ]  # fmt: skip
    if kind.update is not None:
        change = _bound(_update, kind)
        result.append(Route(method="PUT", path=one, rule=f"update_{noun}", do=change, body=object))
    return (*result, *(_tag_routes(kind, one) if kind.has_tags else ()))


def list_page(tx: Tx, call: Call[Any], kind: Resource) -> Reply:
    """One page, with the fields asked for and links to its neighbours."""
    search, is_explicit = search_of(call, kind)
    records = kind.find(tx, call.who, search)
    return reply_page(call, kind, shown(tx, call, kind, records), search, is_explicit=is_explicit)


def reply_page(
    call: Call[Any], kind: Resource, items: list[Shown], search: Search, *, is_explicit: bool
) -> Reply:
    fields = set(call.query.all("fields"))
    body: Shown = {kind.many: [_trimmed(item, fields) for item in items]}
    is_full = len(items) >= search.limit
    links = []
    if is_full or (is_explicit and search.backwards):
        links.append(_link(call, "next", items[-1]["id"] if items else None))
    if is_explicit and (is_full or not search.backwards):
        links.append(_link(call, "previous", items[0]["id"] if items else None))
    if links:
        body[f"{kind.many}_links"] = links
    return Reply(body=body)


def search_of(call: Call[Any], kind: Resource) -> tuple[Search, bool]:
    """What the query string asks for, and whether it sets a page's size. Raises Invalid."""
    page = page_of(call)
    keys, directions = call.query.all("sort_key"), call.query.all("sort_dir")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Invalid(
                f"HTTPBadRequest: The sort_dir '{direction[:40]}' is neither 'asc' nor 'desc'."
            )
    if len(directions) > len(keys):
        raise Invalid("HTTPBadRequest: The number of sort_keys and sort_dirs must be same")
    is_hidden = set(hidden_from(call, kind))
    names = [n for n in call.query.keys() if n not in _RESERVED]  # noqa: SIM118 - not a dict
    for name in (*names, *keys):
        if name in is_hidden:
            raise Invalid(f"HTTPBadRequest: ['{name}'] is invalid attribute for filtering")
    search = Search(
        filters=tuple((name, tuple(call.query.all(name))) for name in names),
        sort=tuple(
            (key, index < len(directions) and directions[index] == "desc")
            for index, key in enumerate(keys)
        ),
        limit=page.limit or LIMIT_MAX,
        marker=page.marker,
        backwards=call.query.boolean("page_reverse") or False,
    )
    return search, page.is_explicit and page.limit > 0


def shown(tx: Tx, call: Call[Any], kind: Resource, records: Sequence[Any]) -> list[Shown]:
    """Records as this caller may see them; policy is asked once, not for each."""
    hidden = hidden_from(call, kind)
    items = kind.show(tx, records)
    if hidden:
        for item in items:
            for name in hidden:
                item.pop(name, None)
    return items


def hidden_from(call: Call[Any], kind: Resource) -> list[str]:
    return [name for name in kind.hidden if not call.may(f"get_{kind.one}:{name}")]


def part(body: Any, key: str) -> Mapping[str, Any]:
    """The object under `key` of a request's body. Raises Invalid."""
    inner = body.get(key) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        raise Invalid(f"HTTPBadRequest: Unable to find '{key}' in request body")
    return inner


def wished(kind: Resource, raw: Mapping[str, Any]) -> Any:
    """The wish that an object of the body stands for. Raises Invalid, naming the attribute."""
    return convert(raw, kind.wish)


def convert(raw: Mapping[str, Any], into: Any) -> Any:
    values = dict(raw)
    if "tenant_id" in values:  # Neutron's older word for the same.
        values.setdefault("project_id", values.pop("tenant_id"))
        values.pop("tenant_id", None)
    try:
        # Clients send "true" and "80" as text here and there; Neutron has always taken them.
        return msgspec.convert(values, into, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(_explained(str(error))) from error


def require_revision(call: Call[Any], record: Record) -> None:
    """412 unless the record is at the revision that `If-Match` names."""
    wanted = call.headers.get("if-match")
    if wanted is None:
        return
    name, _, number = wanted.strip().strip('"').partition("=")
    if name.strip() != "revision_number" or not number.strip().isdecimal():
        raise Invalid(f"HTTPBadRequest: Bad If-Match header: '{wanted[:60]}'.")
    if int(number) != record.revision:
        raise HttpFault(
            412,
            f"RevisionNumberConstraintFailed: Constrained to {number.strip()}, but current revision "
            f"is {record.revision}",
        )


def require_attributes(call: Call[Any], verb: str, kind: Resource, raw: Mapping[str, Any]) -> None:
    """Denied when the body says something that policy keeps for others. What is said as it would be
    anyway (false, null) when a thing is made is not asked."""
    rules = call.policy.rules
    for name, value in raw.items():
        is_moot = verb == "create" and value in (None, False)
        rule = f"{verb}_{kind.one}:{name}"
        if rule in rules and not is_moot:
            call.require(rule)
        if isinstance(value, dict):
            for inner in value:
                if f"{rule}:{inner}" in rules:
                    call.require(f"{rule}:{inner}")


def _bound(verb: Callable[[Tx, Call[Any], Resource], Any], kind: Resource) -> Do:
    return lambda tx, call: verb(tx, call, kind)


def _list(tx: Tx, call: Call[Any], kind: Resource) -> Reply:
    return list_page(tx, call, kind)


def _show(tx: Tx, call: Call[Any], kind: Resource) -> Shown:
    record = kind.get(tx, call.who, call.path["resource_id"])
    (item,) = shown(tx, call, kind, [record])
    return {kind.one: _trimmed(item, set(call.query.all("fields")))}


def _create(tx: Tx, call: Call[Any], kind: Resource) -> Shown:
    body = call.body
    if isinstance(body, dict) and isinstance(body.get(kind.many), list):
        wanted = body[kind.many]
        if not 1 <= len(wanted) <= BULK_MAX or not all(isinstance(raw, dict) for raw in wanted):
            raise Invalid(
                f"HTTPBadRequest: '{kind.many}' must be a list of 1 to {BULK_MAX} objects."
            )
        made = [_made(tx, call, kind, raw) for raw in wanted]
        return {kind.many: shown(tx, call, kind, made)}
    record = _made(tx, call, kind, part(body, kind.one))
    (item,) = shown(tx, call, kind, [record])
    return {kind.one: item}


def _made(tx: Tx, call: Call[Any], kind: Resource, raw: Mapping[str, Any]) -> Any:
    require_attributes(call, "create", kind, raw)
    return kind.create(tx, call.who, wished(kind, raw))


def _update(tx: Tx, call: Call[Any], kind: Resource) -> Shown:
    assert kind.update is not None
    raw = part(call.body, kind.one)
    resource_id = call.path["resource_id"]
    record = kind.get(tx, call.who, resource_id)
    require_revision(call, record)
    fixed = kind.fixed | {"id", "tenant_id", "project_id"}
    for name in raw:
        if name in fixed:
            raise Invalid(f"HTTPBadRequest: Cannot update read-only attribute {name}")
    require_attributes(call, "update", kind, raw)
    changed = kind.update(tx, call.who, resource_id, wished(kind, raw))
    (item,) = shown(tx, call, kind, [changed])
    return {kind.one: item}


def _delete(tx: Tx, call: Call[Any], kind: Resource) -> None:
    resource_id = call.path["resource_id"]
    if "if-match" in call.headers:
        require_revision(call, kind.get(tx, call.who, resource_id))
    kind.delete(tx, call.who, resource_id)


def _trimmed(item: Shown, fields: set[str]) -> Shown:
    return {k: v for k, v in item.items() if k in fields} if fields else item


def _link(call: Call[Any], relation: str, marker: str | None) -> dict[str, str]:
    pairs = [(k, v) for k, v in call.query.pairs if k not in ("marker", "page_reverse")]
    if marker is not None:
        pairs.append(("marker", marker))
    if relation == "previous":
        pairs.append(("page_reverse", "True"))
    return {"rel": relation, "href": f"{call.base_url}{call.url_path}?{urlencode(pairs)}"}


def _explained(message: str) -> str:
    """msgspec's message in Neutron's words."""
    if unknown := re.search(r"unknown field `([^`]*)`", message):
        return f"HTTPBadRequest: Unrecognized attribute(s) '{unknown[1]}'"
    if missing := re.search(r"missing required field `([^`]*)`", message):
        return (
            "HTTPBadRequest: Failed to parse request. Required attribute "
            f"'{missing[1]}' not specified"
        )
    if found := _WHERE.match(message):
        return f"InvalidInput: Invalid input for {found[2]}. Reason: {found[1]}."
    return f"InvalidInput: {message}"


# --- tags --------------------------------------------------------------------------------------------


class _TagsBody(Struct, forbid_unknown_fields=True):
    tags: list[str]


def _tag_routes(kind: Resource, one: str) -> tuple[Route, ...]:
    def labels(tx: Tx, call: Call[Any]) -> Shown:
        return {"tags": list(_thing(tx, call).tags)}

    def has_label(tx: Tx, call: Call[Any]) -> None:
        tags.require(_thing(tx, call), call.path["tag"])

    def replace(tx: Tx, call: Call[_TagsBody]) -> Shown:
        return {"tags": list(tags.replace(tx, call.who, _thing(tx, call), call.body.tags))}

    def add(tx: Tx, call: Call[Any]) -> Reply:
        tags.add(tx, call.who, _thing(tx, call), call.path["tag"])
        return Reply(status=201)

    def remove(tx: Tx, call: Call[Any]) -> None:
        tags.remove(tx, call.who, _thing(tx, call), call.path["tag"])

    def clear(tx: Tx, call: Call[Any]) -> None:
        tags.replace(tx, call.who, _thing(tx, call), ())

    def _thing(tx: Tx, call: Call[Any]) -> Any:
        thing = kind.get(tx, call.who, call.path["resource_id"])
        if call.body is not None or "if-match" in call.headers:
            require_revision(call, thing)
        return thing

    every, each = f"{one}/tags", f"{one}/tags/{{tag}}"
    see, change = "get_tags", "update_tags"
    return (
        Route(method="GET", path=every, rule=see, do=labels),
        Route(method="PUT", path=every, rule=change, do=replace, body=_TagsBody),
        Route(method="DELETE", path=every, rule=change, do=clear, status=204),
        Route(method="GET", path=each, rule=see, do=has_label, status=204),
        Route(method="PUT", path=each, rule=change, do=add, status=201),
        Route(method="DELETE", path=each, rule=change, do=remove, status=204),
    )
