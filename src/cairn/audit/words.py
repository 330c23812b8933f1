"""What a route's requests are called in the trail: CADF's action, and the kind of thing that they are about.

Everything follows from the route's own words, so that a new route is named without being told of here.
Source of the taxonomies: DMTF DSP0262, "Cloud Audit Data Federation", annex A; of what services call their
actions, keystonemiddleware's documentation, "Audit middleware".
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import UNSET, Struct

from cairn.http.routes import Route, Service

AUTHENTICATE = "authenticate"

SIGN_INS = frozenset(
    {
        ("POST", "/v3/auth/tokens"),
        ("POST", "/v3/ec2tokens"),
        ("POST", "/v3/s3tokens"),
    }
)
"""Routes by which somebody signs in, of identity. Those of federation are known by their paths."""

VERBS = {
    "deactivate": "disable",
    "reactivate": "enable",
    "add_router_interface": "add_router_interface",
    "remove_router_interface": "remove_router_interface",
    "add_extraroutes": "add_extraroutes",
    "remove_extraroutes": "remove_extraroutes",
    "import": "import",
    "file": "upload",
    "stage": "upload",
    "fence": "fence",
    "recover": "recover",
    "drain": "drain",
    "rotate": "rotate",
    "join": "join",
}
"""Last words of a path that say what is done, by what it is called."""

SMALL_THINGS = {"metadata", "tags", "extra_specs", "os-extra_specs", "options"}
"""Collections without ids of their own: they are told as changes of what has them."""

_VERSIONS = {"v2", "v2.0", "v2.1", "v3", "v1", "cairn"}
_METHODS = {"GET": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_ACTORS = {"users": "user_id", "groups": "group_id"}
_ACTION_CHARACTERS = 64


class Words(Struct, frozen=True, kw_only=True):
    """How the requests of one route are told."""

    action: str
    target_type: str
    variables: tuple[str, ...] = ()  # of the path, in its order
    target: str | None = None  # the variable that names the thing
    is_creation: bool = False  # the reply names the thing
    is_action: bool = False  # the body's one key names the action
    is_sign_in: bool = False


def words(service: Service, route: Route) -> Words:
    return _words(service.kind, route.method, route.path)


@lru_cache(maxsize=4096)
def _words(service: str, method: str, path: str) -> Words:
    parts = [part for part in path.split("/") if part]
    while parts and parts[0] in _VERSIONS:
        parts = parts[1:]
    if service == "block-storage" and parts[:1] == ["{project_id}"]:
        parts = parts[1:]  # The token's own.
    variables = tuple(part[1:-1] for part in parts if part.startswith("{"))
    if is_sign_in(service, method, path):
        return Words(action=AUTHENTICATE, target_type="identity/token", is_sign_in=True)
    last = parts[-1] if parts else ""
    action = _METHODS.get(method, method.lower())
    is_action = method == "POST" and last == "action"
    if is_action:
        action = "update"
    elif last in VERBS:
        action = VERBS[last] if method != "DELETE" else f"un{VERBS[last]}"
    elif service == "identity" and method == "PUT" and last != "tags":
        action = "create"  # Grants, memberships, things whose ids the client chooses.
    target_type = _target_type(service, parts)
    is_small = bool(SMALL_THINGS & set(parts))
    is_plain = not is_action and last not in VERBS
    target = variables[-1] if variables else None
    if is_small and variables:
        owner = next(i for i, part in enumerate(parts) if part in SMALL_THINGS)
        before = [p[1:-1] for p in parts[:owner] if p.startswith("{")]
        target = before[-1] if before else None
        action = "update"
    return Words(
        action=action,
        target_type=target_type,
        variables=variables,
        target=target,
        is_creation=method == "POST" and is_plain and not is_small and not last.startswith("{"),
        is_action=is_action,
    )


def is_sign_in(service: str, method: str, path: str) -> bool:
    if service != "identity":
        return False
    is_federation = path.startswith("/v3/auth/OS-FEDERATION/") or (
        path.startswith("/v3/OS-FEDERATION/") and path.endswith("/auth")
    )
    return (method, path) in SIGN_INS or is_federation


def action_of(known: Words, body: Any, *, was_understood: bool) -> str:
    """What was done, where the body says it: a server's action, or that a thing was disabled.

    What is in a body that was not understood is not told: it may be anything."""
    if not was_understood or body is None:
        return known.action
    if known.is_action:
        return _named_action(body) or known.action
    if known.action == "update":
        return _switch(body) or known.action
    return known.action


def _named_action(body: Any) -> str | None:
    if isinstance(body, dict):
        names = list(body)
    elif isinstance(body, Struct):
        names = [
            shown
            for field, shown in zip(
                body.__struct_fields__, body.__struct_encode_fields__, strict=True
            )
            if getattr(body, field) not in (None, UNSET)
        ]
    else:
        return None
    name = names[0] if len(names) == 1 and isinstance(names[0], str) else ""
    is_word = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return name if is_word and len(name) <= _ACTION_CHARACTERS else None


def _switch(body: Any) -> str | None:
    """ "disable" for a change that disables, "enable" for one that does nothing but enable."""
    inner = body
    if isinstance(body, Struct) and len(body.__struct_fields__) == 1:
        inner = getattr(body, body.__struct_fields__[0])
    if isinstance(inner, Struct):
        inner = {f: getattr(inner, f) for f in inner.__struct_fields__}
        inner = {f: value for f, value in inner.items() if value not in (None, UNSET, {})}
    if not isinstance(inner, Mapping):
        return None
    enabled = inner.get("enabled")
    if enabled is False:
        return "disable"
    return "enable" if enabled is True and len(inner) == 1 else None


def _target_type(service: str, parts: list[str]) -> str:
    if service == "identity" and _is_grant(parts):
        return "identity/role_assignment"
    kept = [p for p in parts if not p.startswith("{") and p not in ("action", "actions")]
    if len(kept) > 1 and kept[-1] in VERBS:
        kept = kept[:-1]
    return "/".join([service, *map(_singular, kept)])


def _is_grant(parts: list[str]) -> bool:
    words_ = set(parts)
    return "roles" in words_ and bool(words_ & _ACTORS.keys())


def _singular(word: str) -> str:
    if word in ("metadata", "os-quota-class"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
