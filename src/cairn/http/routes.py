"""What a service is to the shell: a table of routes with everything that can be known beforehand.

Tests are generated from these tables (no token, foreign project, unknown id, bad body), so a route that
is not in a table does not exist and one that is cannot be forgotten.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from cairn.core.errors import CloudError
from cairn.http.versions import Version, Versions

if TYPE_CHECKING:
    from cairn.db.engine import Database, Tx
    from cairn.http.call import Call


class Reply(Struct, frozen=True, kw_only=True):
    """An answer that is more than a body with the route's status.

    `body`: bytes go out as they are, anything else as JSON, None as nothing.
    """

    body: Any = None
    status: int | None = None  # None: the route's
    headers: dict[str, str] = {}
    content_type: str = "application/json"
    stream: AsyncIterator[bytes] | None = None  # instead of a body
    content_length: int | None = None


Target = Callable[["Tx", "Call[Any]"], Mapping[str, str | None]]
Do = Callable[["Tx", "Call[Any]"], Any]
Run = Callable[["Database", "Call[Any]"], Awaitable[Any]]


F = TypeVar("F", bound=Callable[..., Mapping[str, str | None]])


def tells(*fields: str) -> Callable[[F], F]:
    """Say which fields a `Route.target` may tell: they are what an operator's rule may name."""

    def mark(target: F) -> F:
        target.fields = fields  # type: ignore[attr-defined]
        return target

    return mark


class Route(Struct, frozen=True, kw_only=True):
    """One method on one path.

    `do` is a plain function on the request's transaction; `run` is for the few that stream bytes, hash
    passwords or ask a host, and opens transactions itself. `rule` names a line of the service's policy;
    None is public. `body` is the Struct that the request must be (None: it has none; `object`: the
    handler decodes).

    `target` tells what the rule is about where path and token do not: it reads that in the request's
    own transaction, before `do`, under oslo.policy's names ("target.user.domain_id"). What is not there
    it leaves out: then only those pass whose rule asks for nothing of it, and hear of the 404.
    """

    method: str
    path: str  # below the service's root: "/v2.1/servers/{server_id}"
    rule: str | None
    do: Do | None = None
    run: Run | None = None
    body: Any = None
    status: int = 200
    since: Version | None = None  # microversions in which the route exists
    until: Version | None = None
    body_bytes_max: int = 1 << 20
    streams: bool = False  # the body is not read: `call.stream` yields it
    reads: bool | None = None  # None: GET and HEAD read, the rest write
    target: Target | None = None
    reply: Any = None  # the type that its answer has, for the document of the API
    also: tuple[int, ...] = ()  # other statuses of good answers, for the same
    query: tuple[str, ...] = ()  # what may stand in the query string, for the same
    stale_ok: bool = False  # a replica of the database may answer, if it is current enough

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return not (self.reads if self.reads is not None else self.method in ("GET", "HEAD"))


class Service(Struct, frozen=True, kw_only=True):
    """One API: its place, its routes, and how it says no."""

    name: str  # "nova"
    kind: str  # its type in the catalog: "compute"
    root: str  # "/compute"
    catalog_path: str  # below root, what the catalog shows: "/v2.1"
    routes: tuple[Route, ...]
    policy: Mapping[str, str]
    shape_fault: Callable[[int, str], tuple[bytes, str]]  # (status, message) -> body, content type
    versions: Versions | None = None
    statuses: Mapping[type[CloudError], int] = {}  # where it differs from faults.STATUSES
    ignores_last_slash: bool = False  # "/v3/users/" is "/v3/users"
    request_id_header: str | None = None  # besides X-Openstack-Request-Id
