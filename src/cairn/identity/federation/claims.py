"""Claims under the names that mapping rules use for them.

Keystone sees claims as what a web server's module makes of them, so rules that were written for it say
`HTTP_OIDC_EMAIL`, `OIDC-email` or `OIDC_CLAIM_email`. All of these, and the claim's own name, mean the
claim; `realm_access.roles` means one inside another.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

VALUE_CHARACTERS_MAX = 4096  # what rules compare must be bounded
ISSUER_NAMES = frozenset({"HTTP_OIDC_ISS", "OIDC-iss", "OIDC_CLAIM_iss", "iss"})


class Unmapped(Exception):
    """What the provider said means nobody here; the text says why."""


_PREFIXES = ("HTTP_OIDC_CLAIM_", "HTTP_OIDC_", "OIDC_CLAIM_", "OIDC-", "OIDC_")


def values_of(claims: Mapping[str, Any], name: str) -> list[str]:
    """The claim's values as text; [] when the provider did not say it. Raises Unmapped."""
    values = _texts(_found(claims, name))
    if not all(_is_clean(value) for value in values):
        raise Unmapped(f"the claim '{name}' is longer than {VALUE_CHARACTERS_MAX}, or no text")
    return values


def _is_clean(value: str) -> bool:
    """Short enough to be looked at, and nothing that a database would not take."""
    return (
        len(value) <= VALUE_CHARACTERS_MAX
        and "\0" not in value
        and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def _found(claims: Mapping[str, Any], name: str) -> Any:
    if name == "REMOTE_USER":
        return claims.get("sub")
    if name in claims:
        return claims[name]
    bare = next((name.removeprefix(p) for p in _PREFIXES if name.startswith(p)), name)
    if bare in claims:
        return claims[bare]
    if "." in bare:
        return _inside(claims, bare.split("."))
    if name.startswith("HTTP_"):
        return _like_a_header(claims, bare)
    return None


def _inside(claims: Any, path: list[str]) -> Any:
    for step in path[:8]:
        if not isinstance(claims, Mapping):
            return None
        claims = claims.get(step)
    return claims


def _like_a_header(claims: Mapping[str, Any], wanted: str) -> Any:
    """Headers have lost case and signs; a name that then means two claims means neither."""
    likes = [key for key in claims if re.sub(r"[^A-Z0-9]", "_", key.upper()) == wanted]
    return claims[likes[0]] if len(likes) == 1 else None


def _texts(value: Any) -> list[str]:
    match value:
        case None | "":
            return []
        case bool():
            return ["1" if value else "0"]
        case str():
            return [value]
        case int() | float():
            return [str(value)]
        case list():
            return [text for one in value for text in _texts(one)]
        case _:
            return [json.dumps(value)]
