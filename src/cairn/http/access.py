"""What a token that is narrowed by access rules may ask.

Source: api-ref, Identity v3, "Access rules"; the path language is keystonemiddleware's: `*` and `{name}`
stand for one part of a path, `**` for any number.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from cairn.core.caller import Caller
from cairn.core.errors import Denied
from cairn.http.routes import Service

_WORD = re.compile(r"(\*\*)|(\*|\{[^}]*\})|([^*{]+|\{)")


def require(who: Caller, service: Service, method: str, path: str) -> None:
    """Denied when the caller's token is narrowed and no rule of it lets this request through."""
    rules = who.delegation.access_rules if who.delegation is not None else None
    if rules is None or _is_about_the_token(service, path):
        return
    below = path.removeprefix(service.root)
    for rule in rules:
        if rule.service == service.kind and rule.method == method and _form(rule.path)(below):
            return
    raise Denied("No access rule of the application credential allows this request.")


def _is_about_the_token(service: Service, path: str) -> bool:
    """Looking at one's own token, or ending it, is always allowed: clients begin and end with that."""
    return service.kind == "identity" and path == f"{service.root}/v3/auth/tokens"


@lru_cache(maxsize=1024)
def _form(pattern: str) -> Callable[[str], re.Match[str] | None]:
    parts = []
    for any_number, one, literal in _WORD.findall(pattern):
        parts.append(".*" if any_number else "[^/]+" if one else re.escape(literal))
    return re.compile("".join(parts)).fullmatch
