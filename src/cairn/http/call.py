"""One request, as a handler sees it."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from cairn.core.caller import Caller
from cairn.core.errors import Denied, Invalid
from cairn.http.limits import QUERY_FIELDS_MAX
from cairn.http.policy import Policy
from cairn.http.versions import Version

B = TypeVar("B")
# oslo.middleware's form; what else a client sends under this name is nobody's id.
_GLOBAL_ID = re.compile(
    r"req-[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)


def global_id(text: str | None) -> str | None:
    return text if text and _GLOBAL_ID.fullmatch(text) else None


class Query:
    """The query string: repeated keys kept, in order."""

    def __init__(self, text: str) -> None:
        self.pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)

    def __contains__(self, key: str) -> bool:
        return any(k == key for k, _ in self.pairs)

    def get(self, key: str, default: str | None = None) -> str | None:
        """The last value of `key`."""
        for name, value in reversed(self.pairs):
            if name == key:
                return value
        return default

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.pairs if name == key]

    def keys(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.pairs))

    def boolean(self, key: str) -> bool | None:
        """True or False as OpenStack's clients spell them; None if absent; Invalid otherwise."""
        text = self.get(key)
        if text is None:
            return None
        if text.lower() in ("1", "t", "true", "on", "y", "yes"):
            return True
        if text.lower() in ("0", "f", "false", "off", "n", "no"):
            return False
        raise Invalid(f"Query parameter '{key}' must be a boolean, not '{text}'.")

    def integer(self, key: str, *, minimum: int = 0) -> int | None:
        text = self.get(key)
        if text is None:
            return None
        if not text.isdecimal() or not text.isascii() or len(text) > 18 or int(text) < minimum:
            raise Invalid(f"Query parameter '{key}' must be an integer >= {minimum}, not '{text}'.")
        return int(text)


class Call(Generic[B]):
    """Who asks for what, with which body and version. `who` is None on public routes only."""

    __slots__ = (
        "base_url", "body", "caller", "headers", "path", "peer", "policy", "query", "request_id",
        "stream", "url_path", "version",
    )  # fmt: skip

    def __init__(
        self,
        *,
        caller: Caller | None,
        path: Mapping[str, str],
        query: Query,
        body: B,
        headers: Mapping[str, str],
        base_url: str,
        url_path: str,
        request_id: str,
        policy: Policy,
        version: Version | None = None,
        stream: AsyncIterator[bytes] | None = None,
        peer: str = "",
    ) -> None:
        self.caller = caller
        self.path = path  # the path's variables
        self.query = query
        self.body = body
        self.headers = headers  # names in lower case
        self.base_url = base_url  # "https://cloud.example:8443", as the client wrote it
        self.url_path = url_path
        self.request_id = request_id
        self.policy = policy
        self.version = version
        self.peer = peer  # the client's address
        self.stream = stream  # the body's bytes, on routes that stream

    @property
    def who(self) -> Caller:
        assert self.caller is not None, "public routes must not ask who calls"
        return self.caller

    def may(self, rule: str, **target: str | None) -> bool:
        """Whether the caller passes `rule`; the target's project is the caller's unless given."""
        return self.policy.allows(rule, self.who, {"project_id": self.who.project_id, **target})

    def require(self, rule: str, **target: str | None) -> None:
        """Denied unless the caller passes `rule`."""
        if not self.may(rule, **target):
            raise Denied(f"Policy does not allow this request: rule '{rule}'.")

    def at_least(self, major: int, minor: int) -> bool:
        """Whether the request's microversion is this one or newer."""
        return self.version is not None and self.version >= (major, minor)
