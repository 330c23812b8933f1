"""What a token that is narrowed by access rules may ask.

Source: api-ref, Identity v3, "Access rules"; keystonemiddleware's auth_token for the path language (`*` and
`{name}` stand for one part of a path, `**` for any number) and for the answer to all else, 401.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from cairn.core.caller import Caller
from cairn.core.errors import Unauthenticated
from cairn.http.routes import Service

_WORD = re.compile(r"(\*\*)|(\*|\{[^}]*\})|([^*{]+|\{)")


def require(who: Caller, service: Service, method: str, path: str) -> None:
    """Unauthenticated when the caller's token is narrowed and no rule of it lets this request through."""
    rules = who.delegation.access_rules if who.delegation is not None else None
    if rules is None or _is_validation(service, method, path):
        return
    below = path.removeprefix(service.root)
    for rule in rules:
        if rule.method != method or rule.service != service.kind:
            continue
        form = _form(rule.path)
        # A rule may name the path as the service's own documentation does, or as the client sends it.
        if form(below) or form(path):
            return
    raise Unauthenticated(
        "The request you have made requires authentication.",
        because="no access rule of the application credential allows the request",
    )


def _is_validation(service: Service, method: str, path: str) -> bool:
    """Every service that a token is shown to must be able to ask about it."""
    return (
        service.kind == "identity" and method == "GET" and path == f"{service.root}/v3/auth/tokens"
    )


@lru_cache(maxsize=1024)
def _form(pattern: str) -> Callable[[str], re.Match[str] | None]:
    parts = []
    for any_number, one, literal in _WORD.findall(pattern):
        parts.append(".*" if any_number else "[^/]+" if one else re.escape(literal))
    return re.compile("".join(parts), re.DOTALL).fullmatch
