"""What the trail knows of one deed."""

import itertools
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Outcome(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"  # it was tried, and was wrong or went wrong
    DENIED = "denied"  # whoever asked may not, or did not prove to be who they say
    PENDING = "pending"  # written on the way; how it ended is another event of the same request


class Event(Struct, frozen=True, kw_only=True):
    """One deed. Never a body, a password, a token or another secret; every text has its bound."""

    id: str  # in the order of time, so that it pages by itself
    at: datetime
    outcome: str  # Outcome's
    action: str  # CADF's, or the action's own name: "create", "authenticate", "os-start"
    service: str  # its type in the catalog: "compute"
    target_type: str  # "compute/server"
    target_id: str | None = None
    target_name: str | None = None
    details: dict[str, str] = {}  # what else the path names: {"role_id": …, "user_id": …}
    project_id: str | None = None  # the thing's, else the caller's
    domain_id: str | None = None
    user_id: str | None = None
    user_domain_id: str | None = None
    scope: str | None = None  # "project:…", "domain:…", "system:all"; None: unscoped, or nobody
    roles: str = ""  # names, sorted
    source: str = ""  # the client's address
    agent: str = ""  # what it calls itself
    token_id: str | None = None  # the token's audit id
    delegation: str | None = None  # "trust:…", "application_credential:…"
    request_id: str
    method: str
    path: str  # without its query
    status: int
    reason: str | None = None  # of what did not succeed


class Filter(Struct, frozen=True, kw_only=True):
    """Which events; None is all. `visible_…`: what the caller may see at most."""

    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    project: str | None = None
    domain: str | None = None
    target: str | None = None
    target_type: str | None = None
    service: str | None = None
    action: str | None = None
    outcome: str | None = None
    request: str | None = None
    visible_project: str | None = None
    visible_domain: str | None = None


class Ids:
    """Ids of events: UUIDs of version 7, so that their order is the order of time.

    `process` sets those of several processes apart, a count those of one within a microsecond.
    """

    def __init__(self, process: int) -> None:
        self._fixed = (process & 0x3FFFFFFF) << 32
        self._count = itertools.count()  # which threads may share

    def new(self, at: datetime) -> str:
        return _uuid(at, self._fixed | next(self._count) & 0xFFFFFFFF)


def first_id(at: datetime) -> str:
    """The least id that an event of this moment, or a later one, can have."""
    return _uuid(at, 0)


def _uuid(at: datetime, rest: int) -> str:
    milliseconds, beyond = divmod((at - _EPOCH) // _MICROSECOND, 1000)
    below = beyond * 4096 // 1000
    text = f"{milliseconds << 80 | 7 << 76 | below << 64 | 2 << 62 | rest:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
