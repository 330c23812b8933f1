"""Whose deed it was: out of the token, or of what a sign-in said of itself."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from cairn.audit.targets import ID_MAX, short, short_id
from cairn.core.caller import Caller
from cairn.http.call import Call
from cairn.http.routes import Reply

_METHODS = {
    "application_credential",
    "external",
    "mapped",
    "oauth1",
    "openid",
    "password",
    "saml2",
    "token",
    "totp",
}


class Who(Struct, frozen=True, kw_only=True):
    user_id: str | None = None
    user_domain_id: str | None = None
    project_id: str | None = None  # of the scope
    domain_id: str | None = None  # of the project, of the scope, or else of the user
    scope: str | None = None
    roles: str = ""
    token_id: str | None = None
    delegation: str | None = None
    said: dict[str, str] = {}  # of a sign-in: the name it came with, and the methods


def of_caller(caller: Caller | None) -> Who:
    if caller is None:
        return Who()
    lent = caller.delegation
    return Who(
        user_id=caller.user_id,
        user_domain_id=caller.user_domain_id,
        project_id=caller.project_id,
        domain_id=caller.project_domain_id or caller.scope_domain_id or caller.user_domain_id,
        scope=_scope(caller.project_id, caller.scope_domain_id, is_system=caller.is_system),
        roles=",".join(sorted(caller.roles))[:255],
        token_id=caller.audit_id or None,
        delegation=None if lent is None else short(f"{lent.kind}:{lent.id}", 128),
    )


def of_sign_in(call: Call[Any], result: Any) -> Who:
    """Who signed in, by the token's description; of one that was refused, who it claimed to be."""
    said = _claimed(call.body)
    token = _token(result)
    if token is None:
        return Who(user_id=said.pop("user_id", None), said=said)
    user, project, domain = (_part(token, word) for word in ("user", "project", "domain"))
    audit_ids = token.get("audit_ids") or [None]
    user_domain_id = short_id(_part(user, "domain").get("id"))
    project_id, scope_domain_id = short_id(project.get("id")), short_id(domain.get("id"))
    roles = [str(role.get("name")) for role in token.get("roles") or () if _is_map(role)]
    said.pop("user_id", None)
    return Who(
        user_id=short_id(user.get("id")),
        user_domain_id=user_domain_id,
        project_id=project_id,
        domain_id=short_id(_part(project, "domain").get("id")) or scope_domain_id or user_domain_id,
        scope=_scope(project_id, scope_domain_id, is_system="system" in token),
        roles=",".join(sorted(roles))[:255],
        token_id=short_id(audit_ids[0]),
        said=said,
    )


def of_session(session: Any) -> Who | None:
    """Who signed in, by the session that a transaction opened; None if it opened none."""
    describe = getattr(getattr(session, "payload", None), "caller", None)
    caller = describe() if callable(describe) else None
    return of_caller(caller) if isinstance(caller, Caller) else None


def _scope(project_id: str | None, domain_id: str | None, *, is_system: bool) -> str | None:
    if project_id is not None:
        return f"project:{project_id}"[: ID_MAX + 8]
    if domain_id is not None:
        return f"domain:{domain_id}"[: ID_MAX + 8]
    return "system:all" if is_system else None


def _token(result: Any) -> Mapping[str, Any] | None:
    body = result.body if isinstance(result, Reply) else result
    token = body.get("token") if isinstance(body, Mapping) else None
    return token if isinstance(token, Mapping) else None


def _claimed(body: Any) -> dict[str, str]:
    """The user's name or id, and the known ones among the methods. Nothing else of a sign-in's body."""
    identity = _inner(_inner(body, "auth"), "identity")
    methods = _inner(identity, "methods")
    known = [m for m in methods if m in _METHODS] if isinstance(methods, list | tuple) else []
    found = {"methods": ",".join(dict.fromkeys(known))} if known else {}
    for method in ("password", "totp", "application_credential"):
        user = _inner(_inner(identity, method), "user")
        for word, key in (("id", "user_id"), ("name", "user_name")):
            text = short_id(_inner(user, word))
            if text:
                found.setdefault(key, text)
    return found


def _inner(thing: Any, name: str) -> Any:
    return thing.get(name) if _is_map(thing) else getattr(thing, name, None)


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = of.get(name)
    return part if isinstance(part, Mapping) else {}


def _is_map(thing: Any) -> bool:
    return isinstance(thing, Mapping)
